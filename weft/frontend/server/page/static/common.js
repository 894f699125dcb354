// Requests with the key, and small parts of the page.

const KEY = "weft-key";
let key = "";
try { key = sessionStorage.getItem(KEY) ?? ""; } catch { key = ""; } // a browser may forbid storage

/** The key of this tab; "" where there is none. */
export function useKey(given) {
  key = given;
  try { sessionStorage.setItem(KEY, given); } catch { /* it lives as long as the page */ }
}

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** A response of this server, or Refused. `path` is relative, so that a path in front of all routes stays. */
export async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (key) headers.authorization = `Bearer ${key}`;
  const response = await fetch(path, { ...options, headers, credentials: "omit", redirect: "error" });
  if (!response.ok && !(path === "ready" && response.status === 503)) {
    throw new Refused(response.status, await reason(response));
  }
  return response;
}

async function reason(response) {
  const text = await response.text();
  try {
    return JSON.parse(text).error.message;
  } catch {
    return `${response.status} ${text.slice(0, 200)}`;
  }
}

/** An element with a class, text or children. */
export function element(name, kind = "", ...inside) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  made.append(...inside);
  return made;
}

export const at = (id) => document.getElementById(id);
export const percent = (share) => `${Math.round(100 * Math.min(1, Math.max(0, share)))} %`;

export function count(number, word) {
  return `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;
}

export function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let place = 0;
  while (number >= 1024 && place < units.length - 1) {
    number /= 1024;
    place += 1;
  }
  return `${number.toFixed(place === 0 || number >= 100 ? 0 : 1)} ${units[place]}`;
}

export function seconds(number) {
  if (!Number.isFinite(number)) return "–";
  return number < 1 ? `${(1000 * number).toFixed(number < 0.01 ? 1 : 0)} ms` : `${number.toFixed(1)} s`;
}
