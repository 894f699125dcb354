// Numbers of the server between two looks at /metrics: speed, latencies, queue, KV use, balance of experts, errors.

import { at, element, percent, seconds } from "./common.js";
import { between, buckets, parsed, quantile, total } from "./exposition.js";

const TTFT = "vllm:time_to_first_token_seconds";
const ITL = "vllm:inter_token_latency_seconds";
const FAILED = "weft:requests_failed_total";
const ANSWERS = "http_requests_total";
const WANTED = new Set([
  `${TTFT}_bucket`, `${ITL}_bucket`, FAILED, ANSWERS, "vllm:generation_tokens_total", "vllm:prompt_tokens_total",
  "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc", "weft:restarts_total",
  "weft:requests_completed_total", "weft:expert_layer_balance", "vllm:cache_config_info", "weft:requests_accepted_total",
]);
const WINDOW_S = 60;
const MOST_POINTS = 150;
const looks = [];
const speeds = [];

/** One look. Returns KV use by engine. */
export function showNumbers(text, onFault) {
  const samples = parsed(text, (name) => WANTED.has(name));
  const now = performance.now() / 1000;
  const last = looks.at(-1);
  looks.push({ now, samples });
  while (looks.length > 2 && now - looks[1].now > WINDOW_S) looks.shift();
  const before = looks[0];
  const usage = new Map((samples.get("vllm:kv_cache_usage_perc") ?? []).map(([labels, value]) => [labels.engine, value]));
  if (last !== undefined) {
    const made = total(samples, "vllm:generation_tokens_total") - total(last.samples, "vllm:generation_tokens_total");
    speeds.push(Math.max(0, made) / Math.max(0.001, now - last.now));
    if (speeds.length > MOST_POINTS) speeds.shift();
    faults(samples, last.samples, onFault);
  }
  tiles(samples, before.samples, usage);
  draw();
  experts(samples.get("weft:expert_layer_balance") ?? []);
  return usage;
}

function tiles(samples, before, usage) {
  const [first, gaps] = [TTFT, ITL].map((name) => between(buckets(samples, name), buckets(before, name)));
  const used = [...usage.values()];
  const shown = [
    ["Tokens a second", speeds.length ? speeds.at(-1).toFixed(speeds.at(-1) < 10 ? 1 : 0) : "–"],
    ["Requests running", String(total(samples, "vllm:num_requests_running"))],
    ["Requests in line", String(total(samples, "vllm:num_requests_waiting"))],
    ["KV blocks in use", used.length ? percent(used.reduce((sum, one) => sum + one, 0) / used.length) : "–"],
    ["First token, p50 / p95 / p99", percentiles(first)],
    ["Between tokens, p50 / p95 / p99", percentiles(gaps)],
    ["Requests answered", total(samples, "weft:requests_completed_total").toLocaleString("en")],
    ["Requests failed", total(samples, FAILED).toLocaleString("en")],
    ["Restarts of ranks", String(total(samples, "weft:restarts_total"))],
  ];
  at("tiles").replaceChildren(...shown.map(([name, value]) =>
    element("div", "", element("dt", "", name), element("dd", "", value))));
}

const percentiles = (counts) => [0.5, 0.95, 0.99].map((share) => seconds(quantile(counts, share))).join(" / ");

function draw() {
  const svg = at("speed");
  at("chart").hidden = speeds.length < 2;
  const most = Math.max(1, ...speeds);
  svg.setAttribute("viewBox", `0 0 ${MOST_POINTS} 40`);
  svg.setAttribute("preserveAspectRatio", "none");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  const from = MOST_POINTS - speeds.length;
  line.setAttribute("points", speeds.map((one, place) => `${from + place},${39 - (38 * one) / most}`).join(" "));
  svg.replaceChildren(line);
  svg.setAttribute("aria-label", `Tokens a second over the last minutes; the most was ${most.toFixed(0)}`);
}

function experts(found) {
  const now = found.filter(([labels]) => labels.placement === "now");
  at("experts").hidden = now.length === 0;
  at("heat-cells").replaceChildren(...now.map(([labels, value]) => {
    const cell = element("li", value < 0.5 ? "bad" : value < 0.8 ? "warn" : "good", `layer ${labels.layer}: ${percent(value)}`);
    return cell;
  }));
}

/** Answers with an error since the last look, by route and class. */
function faults(samples, before, onFault) {
  const earlier = new Map((before.get(ANSWERS) ?? []).map(([labels, value]) => [JSON.stringify(labels), value]));
  for (const [labels, value] of samples.get(ANSWERS) ?? []) {
    const more = value - (earlier.get(JSON.stringify(labels)) ?? 0);
    if (more > 0 && /^[45]/.test(labels.status)) {
      onFault(`${labels.method} ${labels.handler}: ${labels.status}${more > 1 ? `, ${more} times` : ""}`);
    }
  }
}
