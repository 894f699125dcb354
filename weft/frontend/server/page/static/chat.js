// The chat: one conversation, answers as they come, and a stop.

import { ask, at, element, Refused } from "./common.js";

const turns = [];
let running = null;

export function startChat(onRefused) {
  at("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    if (running === null) void answer(onRefused);
  });
  at("question").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      at("ask").requestSubmit();
    }
  });
  at("stop").addEventListener("click", () => running?.abort());
  at("clear").addEventListener("click", () => {
    running?.abort();
    turns.length = 0;
    at("turns").replaceChildren();
    at("question").focus();
  });
}

async function answer(onRefused) {
  const question = at("question").value;
  turns.push({ role: "user", content: question });
  shown("user", question);
  at("question").value = "";
  const stop = new AbortController();
  running = stop;
  busy(true);
  const { text, thoughts, note } = shown("assistant", "");
  const reply = { role: "assistant", content: "" };
  try {
    const body = {
      messages: turns, stream: true, max_tokens: Number(at("most").value), temperature: Number(at("heat").value),
    };
    const response = await ask("v1/chat/completions", {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal: stop.signal,
    });
    for await (const event of events(response.body)) {
      if (event.error) throw new Refused(200, event.error.message);
      const delta = event.choices?.[0]?.delta ?? {};
      if (delta.reasoning_content) add(thoughts, delta.reasoning_content);
      if (delta.content) {
        reply.content += delta.content;
        add(text, delta.content);
      }
    }
  } catch (error) {
    const stopped = error.name === "AbortError";
    note.textContent = stopped ? "stopped" : error.message;
    note.className = stopped ? "quiet" : "bad";
    if (!stopped) onRefused(error, "chat");
  }
  if (turns.at(-1)?.content === question && turns.at(-1)?.role === "user") {
    if (reply.content) turns.push(reply);
    else turns.pop(); // a question without an answer is asked anew
  }
  if (running === stop) {
    running = null;
    busy(false);
  }
}

/** Objects of server-sent events, up to [DONE]. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let left = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const frames = (left + value).split("\n\n");
    left = frames.pop();
    for (const frame of frames) {
      const data = frame.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

function shown(role, words) {
  const text = element("p", "", words);
  const thoughts = element("p", "");
  const folded = element("details", "", element("summary", "", "Reasoning"), thoughts);
  const note = element("p", "quiet");
  folded.hidden = true;
  const turn = element("div", `turn ${role}`, element("p", "who", role === "user" ? "You" : "Model"), folded, text, note);
  at("turns").append(turn);
  at("turns").scrollTop = at("turns").scrollHeight;
  return { text, thoughts, note };
}

function add(place, words) {
  if (place.parentElement.tagName === "DETAILS") place.parentElement.hidden = false;
  const box = at("turns");
  const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
  place.append(words);
  if (atEnd) box.scrollTop = box.scrollHeight;
}

function busy(on) {
  at("stop").hidden = !on;
  at("send").hidden = on;
}
