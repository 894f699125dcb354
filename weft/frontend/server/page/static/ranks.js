// Ranks as cells: each its own while they are few, runs of neighbours that are alike where they are many.

import { at, count, element, percent } from "./common.js";

const MOST_CELLS = 64;
const MOST_TITLES = 8; // hosts that have a heading; of more, each group names its host
const AXES = ["replica", "stage", "dp", "cp", "tp"];

/** `busy`: by rank, the share of the time in steps; `usage`: by engine, the share of KV blocks in use. */
export function showRanks(ranks, busy, usage, groups) {
  const cells = folded(ranks);
  const hosts = new Set(ranks.map((rank) => rank.host));
  const axes = AXES.filter((axis) => ranks.some((rank) => rank.coordinates[axis] > 0));
  const titled = hosts.size > 1 && hosts.size <= MOST_TITLES;
  const shelves = new Map();
  for (const cell of cells) {
    const name = titled ? cell[0].host : "";
    if (!shelves.has(name)) shelves.set(name, []);
    shelves.get(name).push(drawn(cell, place(cell, axes, hosts.size > MOST_TITLES), busy, usage, groups));
  }
  const fold = cells.length < ranks.length ? `, folded into ${count(cells.length, "group")}` : "";
  const where = hosts.size > 1 ? ` on ${count(hosts.size, "host")}` : "";
  at("ranks-note").textContent = ranks.length ? `${count(ranks.length, "rank")}${where}${fold}. ${phases(ranks)}.` : "";
  at("cells").replaceChildren(...[...shelves].flatMap(([name, mine]) =>
    [...(titled ? [element("h3", "", `Host ${name}`)] : []), element("ul", "cells", ...mine)]));
}

/** Groups of ranks. Ranks of a group have one host, replica, stage and phase, as far as the number of groups allows. */
export function folded(ranks) {
  if (ranks.length <= MOST_CELLS) return ranks.map((rank) => [rank]);
  const runs = [];
  for (const rank of ranks) {
    const last = runs.at(-1);
    if (last !== undefined && alike(last[0], rank)) last.push(rank);
    else runs.push([rank]);
  }
  if (runs.length > MOST_CELLS) return pieces(ranks, Math.ceil(ranks.length / MOST_CELLS));
  const size = Math.ceil(ranks.length / (MOST_CELLS - runs.length + 1)); // long runs are parted, to show differences
  return runs.flatMap((run) => pieces(run, Math.max(size, Math.ceil(run.length / 16))));
}

function alike(one, other) {
  const [a, b] = [one.coordinates, other.coordinates];
  return one.host === other.host && one.phase === other.phase && a.replica === b.replica && a.stage === b.stage;
}

function pieces(ranks, size) {
  const made = [];
  for (let start = 0; start < ranks.length; start += size) made.push(ranks.slice(start, start + size));
  return made;
}

function phases(ranks) {
  const counts = new Map();
  for (const rank of ranks) counts.set(rank.phase, (counts.get(rank.phase) ?? 0) + 1);
  return [...counts].map(([phase, number]) => `${number.toLocaleString("en")} ${phase}`).join(", ");
}

function drawn(cell, where, busy, usage, groups) {
  const [first, last] = [cell[0], cell.at(-1)];
  const title = cell.length === 1 ? `Rank ${first.rank}` : `Ranks ${first.rank}–${last.rank}`;
  const lines = [element("p", "name", title)];
  if (where) lines.push(element("p", "quiet", where));
  const detail = cell.length === 1 && first.detail ? `: ${first.detail}` : "";
  lines.push(element("p", tone(cell), phases(cell).replace(/^1 /, "") + detail));
  const shares = cell.map((rank) => busy.get(rank.rank)).filter((share) => share !== undefined);
  if (shares.length) lines.push(...bar("busy", shares, ""));
  const engines = new Set(cell.map((rank) => rank.coordinates.replica * groups + rank.coordinates.dp));
  const used = [...engines].map((engine) => usage.get(String(engine))).filter((share) => share !== undefined);
  if (used.length) lines.push(...bar("KV", used, "kv"));
  return element("li", "", ...lines);
}

/** Host, coordinates on axes that are used, device. */
function place(cell, axes, host) {
  const names = [...new Set(cell.map((rank) => rank.host))];
  const parts = host ? [names.length === 1 ? names[0] : `${names[0]} to ${names.at(-1)}`] : [];
  for (const axis of axes) {
    const values = cell.map((rank) => rank.coordinates[axis]);
    const [low, high] = [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
    parts.push(low === high ? `${axis} ${low}` : `${axis} ${low}–${high}`);
  }
  if (cell.length === 1) parts.push(cell[0].device);
  return parts.filter(Boolean).join(", ");
}

const tone = (cell) => (cell.every((rank) => rank.phase === "ready") ? "good" : "warn");

function bar(name, shares, kind) {
  const mean = shares.reduce((sum, share) => sum + share, 0) / shares.length;
  const [low, high] = [Math.min(...shares), Math.max(...shares)];
  const range = shares.length > 1 && percent(low) !== percent(high) ? ` (${percent(low)} to ${percent(high)})` : "";
  const inside = element("div");
  inside.style.width = percent(mean).replace(" ", "");
  return [element("p", "", `${name} ${percent(mean)}${range}`), element("div", `bar ${kind}`.trim(), inside)];
}
