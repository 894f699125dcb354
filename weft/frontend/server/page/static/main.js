// The page: looks at the server while it is visible, and shows what the key allows.

import { ask, at, element, useKey } from "./common.js";
import { startChat } from "./chat.js";
import { showLayout } from "./layout.js";
import { showNumbers } from "./numbers.js";
import { showRanks } from "./ranks.js";

const EVERY_MS = 2000;
const MOST_MS = 15000;
const MOST_FAULTS = 20;
const state = { busy: new Map(), before: null, usage: new Map(), layout: false, groups: 1, timer: 0 };

function fault(words) {
  const time = new Date().toLocaleTimeString();
  at("faults").prepend(element("li", "", `${time} ${words}`));
  while (at("faults").children.length > MOST_FAULTS) at("faults").lastElementChild.remove();
  at("no-faults").hidden = true;
}

function refused(error, where) {
  if (error.status === 401) askKey(where === "key");
  else if (error.status !== 200 || where === "chat") fault(`${where}: ${error.message}`);
}

function askKey(wrong) {
  at("key-form").hidden = false;
  at("key-fault").textContent = wrong ? "The server does not know this key." : "";
  at("layout-note").textContent = at("ranks-note").textContent = "Shown to clients with the key.";
}

at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(at("key").value.trim());
  at("key").value = "";
  void allowed().then((yes) => {
    if (!yes) return;
    at("key-form").hidden = true;
    void look();
  });
});

/** Whether the key is the server's; says which model it has. */
async function allowed() {
  try {
    const models = await (await ask("v1/models")).json();
    at("model").textContent = models.data[0]?.id ?? "";
    return true;
  } catch (error) {
    refused(error, error.status === 401 && at("key-form").hidden === false ? "key" : "v1/models");
    return false;
  }
}

/** One look at the server. The next comes later where this one took long, as with thousands of ranks. */
async function look() {
  clearTimeout(state.timer);
  const began = performance.now();
  if (!document.hidden) await Promise.all([ready(), numbers()]);
  const pause = Math.min(MOST_MS, Math.max(EVERY_MS, 5 * (performance.now() - began)));
  clearTimeout(state.timer);
  state.timer = setTimeout(look, pause);
  if (!state.layout && !document.hidden) void layout();
}

async function ready() {
  const pill = at("status");
  try {
    const found = await (await ask("ready")).json();
    pill.textContent = found.status;
    pill.className = `pill ${found.status === "ready" ? "good" : "warn"}`;
    busyShares(found.ranks);
    state.groups = 1 + Math.max(0, ...found.ranks.map((rank) => rank.coordinates.dp ?? 0));
    if (found.ranks.length) showRanks(found.ranks, state.busy, state.usage, state.groups);
    if (found.quarantine) at("ranks-note").append(` ${found.quarantine.requests} requests are in quarantine.`);
  } catch {
    pill.textContent = "not reachable";
    pill.className = "pill bad";
  }
}

/** Share of the time since the last look that each rank was in steps. */
function busyShares(ranks) {
  const now = performance.now() / 1000;
  const mine = new Map(ranks.map((rank) => [rank.rank, rank.busy_s]));
  if (state.before !== null) {
    const past = now - state.before.now;
    for (const [rank, busy] of mine) {
      const earlier = state.before.busy.get(rank);
      if (earlier !== undefined) state.busy.set(rank, Math.min(1, Math.max(0, busy - earlier) / past));
    }
  }
  state.before = { now, busy: mine };
}

async function numbers() {
  const note = at("numbers-note");
  try {
    state.usage = showNumbers(await (await ask("metrics")).text(), fault);
    note.hidden = true;
  } catch (error) {
    note.hidden = false;
    note.textContent = error.status === 403 ? "Numbers need the admin key." : "Shown to clients with the key.";
  }
}

async function layout() {
  state.layout = true;
  try {
    await showLayout();
  } catch (error) {
    if (error.status === 404) at("layout-note").textContent = error.message;
    else state.layout = false;
  }
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) void look();
});
startChat(refused);
void allowed().then(look);
