// The layout as `weft explain` draws it, and its sizes as a table for readers of text.

import { ask, at, bytes, count, element } from "./common.js";

export async function showLayout() {
  const [picture, found] = await Promise.all([ask("layout.svg"), ask("layout")]);
  const image = document.createElement("img");
  image.src = URL.createObjectURL(await picture.blob());
  const layout = await found.json();
  const words = `${layout.model.name}: ${count(layout.ranks.length, "rank")}, ${layout.dtype}`;
  image.alt = `${words}. Weights of each rank, ranks that share a copy of each module, and what moves between modules.`;
  at("picture").replaceChildren(image);
  at("layout-note").textContent = `${words}, ${weights(layout.ranks)} of weights a rank.`;
  at("sizes").replaceChildren(sizes(layout.layout), boundaries(layout));
  at("in-text").hidden = false;
}

function weights(ranks) {
  const all = ranks.map((rank) => rank.param_bytes);
  const [low, high] = [all.reduce((a, b) => Math.min(a, b)), all.reduce((a, b) => Math.max(a, b))];
  return low === high ? bytes(low) : `${bytes(low)} to ${bytes(high)}`;
}

function sizes(layout) {
  const rows = [];
  for (const [name, value] of Object.entries(layout)) {
    if (value === null) continue;
    const shown = typeof value === "object"
      ? Object.entries(value).filter(([, size]) => size !== null).map(([axis, size]) => `${axis} ${size}`).join(", ")
      : String(value);
    rows.push([name, shown]);
  }
  return table("Sizes", ["module", "sizes"], rows);
}

function boundaries(layout) {
  const rows = layout.boundaries.map((boundary) => {
    const moved = boundary.collectives.map((call) => {
      const most = call.received.at(-1);
      return call.kind === "slice" ? "slice" : `${call.kind} over ${call.group_size}: ${bytes(most?.max ?? 0)}`;
    });
    return [boundary.name, side(boundary.from), side(boundary.to), moved.join(", then ") || "nothing moves"];
  });
  return table("Between modules", ["boundary", "from", "to", "collectives"], rows);
}

const side = (placement) => `${placement.kind.toUpperCase()}(${placement.size})`;

function table(caption, head, rows) {
  const title = element("caption", "quiet", caption);
  const top = element("tr", "", ...head.map((word) => {
    const cell = element("th", "", word);
    cell.scope = "col";
    return cell;
  }));
  const body = rows.map((row) => element("tr", "", ...row.map((word) => element("td", "", word))));
  return element("table", "", title, element("thead", "", top), element("tbody", "", ...body));
}
