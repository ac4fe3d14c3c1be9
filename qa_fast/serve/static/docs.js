// The OpenAPI description as a page, without a library: each path with its fields and responses.
"use strict";

function made(tag, ...children) {
  const element = document.createElement(tag);
  element.append(...children);
  return element;
}

// "integer", "Question or list of Question", … for a schema.
function kind(schema) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  const several = schema.anyOf ?? schema.oneOf;
  if (several) return several.map(kind).join(" or ");
  if (schema.type === "array") return `list of ${kind(schema.items ?? {})}`;
  return schema.type ?? "any";
}

function table(head, rows) {
  const header = made("tr", ...head.map((text) => made("th", text)));
  const lines = rows.map((cells) => made("tr", ...cells.map((cell) => made("td", cell))));
  const wrap = made("div", made("table", made("thead", header), made("tbody", ...lines)));
  wrap.className = "scroll";
  return wrap;
}

// Every named schema that a schema leads to, itself included, in the order met.
function named(schema, all, found = new Map()) {
  if (!schema || typeof schema !== "object") return found;
  if (schema.$ref) {
    const name = schema.$ref.split("/").pop();
    if (!found.has(name)) {
      found.set(name, all[name]);
      named(all[name], all, found);
    }
  }
  for (const part of Object.values(schema)) named(part, all, found);
  return found;
}

function fields(schema) {
  const needed = new Set(schema.required ?? []);
  return Object.entries(schema.properties ?? {}).map(([name, field]) => {
    const fallback = needed.has(name) ? "required" : field.default === undefined ? "" : JSON.stringify(field.default);
    return [made("code", name), kind(field), fallback, field.description ?? ""];
  });
}

function operation(path, method, about, all) {
  const section = made("section", made("h2", made("code", `${method.toUpperCase()} ${path}`), ` – ${about.summary ?? ""}`));
  section.className = "panel";
  if (about.description) section.append(made("p", about.description));
  const body = about.requestBody?.content?.["application/json"]?.schema;
  if (body) {
    for (const [name, schema] of named(body, all)) {
      section.append(made("h3", name), table(["field", "type", "default", "meaning"], fields(schema)));
    }
  }
  const fine = about.responses?.["200"]?.content?.["application/json"]?.schema;
  if (body && fine) {
    for (const [name, schema] of named(fine, all)) {
      section.append(made("h3", `${name} (response: ${kind(fine)})`));
      section.append(table(["field", "type", "", "meaning"], fields(schema).map((row) => [row[0], row[1], "", row[3]])));
    }
  }
  const statuses = Object.entries(about.responses ?? {}).map(([status, response]) => [made("code", status), response.description]);
  section.append(made("h3", "Statuses"), table(["status", "meaning"], statuses));
  return section;
}

async function start() {
  const api = await (await fetch("/openapi.json")).json();
  document.getElementById("about").textContent = `${api.info.description} Version ${api.info.version}.`;
  const locked = Boolean(api.components?.securitySchemes);
  const key = locked ? "  -H 'Authorization: Bearer YOUR-KEY' \\\n" : "";
  const inputs = '{"inputs": {"question": "When was the harbour dug?",\n              "context": "The harbour was dug in 1874."},\n   "parameters": {"top_k": 3}}';
  document.getElementById("curl").textContent =
    `curl ${location.origin}/ \\\n${key}  -H 'Content-Type: application/json' \\\n  -d '${inputs}'`;
  document.getElementById("python").textContent = [
    "from huggingface_hub import InferenceClient",
    "",
    `client = InferenceClient("${location.origin}"${locked ? ', token="YOUR-KEY"' : ""})`,
    'client.question_answering(question="When was the harbour dug?", context="The harbour was dug in 1874.")',
  ].join("\n");
  const sections = Object.entries(api.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, about]) => operation(path, method, about, api.components.schemas)),
  );
  document.getElementById("paths").replaceChildren(...sections);
}

start().catch(() => {
  document.getElementById("error").textContent = "The description could not be read. Is the server still running?";
});
