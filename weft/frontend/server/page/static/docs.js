// Operations, fields and examples of /openapi.json.

import { ask, at, element } from "./common.js";

const DEPTH = 3;
let schemas = {};

function show(paths) {
  const links = element("ul");
  for (const [path, operations] of Object.entries(paths)) {
    for (const [method, operation] of Object.entries(operations)) {
      const id = `${method}${path}`.replace(/[^a-z0-9]+/gi, "-");
      const link = element("a", "", `${method.toUpperCase()} ${path}`);
      link.href = `#${id}`;
      links.append(element("li", "", link));
      at("operations").append(drawn(id, method, path, operation));
    }
  }
  at("contents").append(links);
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

function drawn(id, method, path, operation) {
  const title = element("h2", "", element("span", "method", method), " ", element("code", "", path));
  const made = element("section", "", title, element("p", "", operation.summary));
  made.id = id;
  title.id = `${id}-title`;
  made.setAttribute("aria-labelledby", title.id);
  const body = operation.requestBody?.content?.["application/json"];
  if (body) {
    if (body.example !== undefined) made.append(element("h3", "", "Example"), example(method, path, body.example));
    for (const schema of alternatives(body.schema)) made.append(...fields(schema, "Request", 0));
  }
  for (const [media, content] of Object.entries(operation.responses["200"].content)) {
    for (const schema of alternatives(content.schema)) made.append(...fields(schema, `Answer, ${media}`, 0));
  }
  return made;
}

function example(method, path, body) {
  const base = new URL(".", location.href).href.replace(/\/$/, "");
  const data = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
  const text = `curl ${base}${path} -H 'content-type: application/json' -d '${data}'`;
  const made = element("pre", "", text);
  made.tabIndex = 0;
  return made;
}

function alternatives(schema) {
  return schema.anyOf && schema.anyOf.every((one) => one.$ref) ? schema.anyOf : [schema];
}

const named = (schema) => (schema.$ref ? schema.$ref.split("/").at(-1) : "");
const resolved = (schema) => (schema.$ref ? schemas[named(schema)] : schema);

/** A table of a record's fields, folded, with those of records inside it. */
function fields(schema, label, depth) {
  const found = resolved(schema);
  if (!found?.properties) return [];
  const head = element("tr", "", ...["field", "type", "default", "meaning"].map((word) => {
    const cell = element("th", "", word);
    cell.scope = "col";
    return cell;
  }));
  const required = new Set(found.required ?? []);
  const inner = new Map();
  const rows = Object.entries(found.properties).map(([name, field]) => {
    for (const one of [field, ...(field.anyOf ?? []), field.items ?? {}]) if (one.$ref) inner.set(named(one), one);
    const shown = field.default === undefined ? (required.has(name) ? "needed" : "") : JSON.stringify(field.default);
    const words = [element("code", "", name), kind(field), shown, field.description ?? ""];
    return element("tr", "", ...words.map((word) => element("td", "", word)));
  });
  const table = element("table", "", element("thead", "", head), element("tbody", "", ...rows));
  const box = element("div", "scroll", table);
  box.tabIndex = 0;
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", `Fields of ${named(schema) || label}`);
  const title = [label, named(schema)].filter(Boolean).join(": ");
  const made = element("details", "", element("summary", "", title));
  if (found.description) made.append(element("p", "quiet", found.description));
  made.append(box);
  if (depth < DEPTH) for (const [, one] of inner) made.append(...fields(one, "", depth + 1));
  return [made];
}

/** A type in words, with its range. */
function kind(field) {
  if (field.$ref) return named(field);
  if (field.const !== undefined) return JSON.stringify(field.const);
  if (field.enum) return field.enum.map((one) => JSON.stringify(one)).join(" or ");
  if (field.anyOf) return [...new Set(field.anyOf.map(kind))].filter(Boolean).join(" or ");
  const type = [field.type ?? "any"].flat().join(" or ");
  const of = field.items ? ` of ${kind(field.items)}` : "";
  const names = {
    minimum: "from", exclusiveMinimum: "above", maximum: "to", minLength: "at least", maxLength: "at most",
    minItems: "at least", maxItems: "at most",
  };
  const range = Object.entries(names).filter(([name]) => field[name] !== undefined).map(([name, word]) => `${word} ${field[name]}`);
  return type + of + (range.length ? `, ${range.join(" ")}` : "");
}

try {
  const found = await (await ask("openapi.json")).json();
  schemas = found.components.schemas;
  show(found.paths);
} catch (error) {
  at("docs-fault").textContent = `The document cannot be read: ${error.message}`;
}
