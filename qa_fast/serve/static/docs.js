// Shows the OpenAPI description as a page, without a library: each path with its fields and responses.
"use strict";

function element(tag, ...children) {
  const created = document.createElement(tag);
  created.append(...children);
  return created;
}

// Returns the type of a schema as text, such as "integer" or "Question or list of Question".
function typeOf(schema) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  const several = schema.anyOf ?? schema.oneOf;
  if (several) return several.map(typeOf).join(" or ");
  if (schema.type === "array") return `list of ${typeOf(schema.items ?? {})}`;
  return schema.type ?? "any";
}

function table(head, rows) {
  const header = element("tr", ...head.map((text) => element("th", text)));
  const lines = rows.map((cells) => element("tr", ...cells.map((cell) => element("td", cell))));
  const wrap = element("div", element("table", element("thead", header), element("tbody", ...lines)));
  wrap.className = "scroll";
  wrap.tabIndex = 0; // so that the keyboard can scroll it
  return wrap;
}

// Returns the named schemas that a schema refers to, directly or through others, in order of appearance.
function namedSchemas(schema, all, schemas = new Map()) {
  if (!schema || typeof schema !== "object") return schemas;
  if (schema.$ref) {
    const name = schema.$ref.split("/").pop();
    if (!schemas.has(name)) {
      schemas.set(name, all[name]);
      namedSchemas(all[name], all, schemas);
    }
  }
  for (const part of Object.values(schema)) namedSchemas(part, all, schemas);
  return schemas;
}

function fields(schema) {
  const required = new Set(schema.required ?? []);
  return Object.entries(schema.properties ?? {}).map(([name, field]) => {
    const defaultValue = required.has(name) ? "required" : field.default === undefined ? "" : JSON.stringify(field.default);
    return [element("code", name), typeOf(field), defaultValue, field.description ?? ""];
  });
}

function sectionOf(path, method, operation, all) {
  const section = element("section", element("h2", element("code", `${method.toUpperCase()} ${path}`), ` – ${operation.summary ?? ""}`));
  section.className = "panel";
  if (operation.description) section.append(element("p", operation.description));
  const body = operation.requestBody?.content?.["application/json"]?.schema;
  if (body) {
    for (const [name, schema] of namedSchemas(body, all)) {
      section.append(element("h3", name), table(["field", "type", "default", "meaning"], fields(schema)));
    }
  }
  const success = operation.responses?.["200"]?.content?.["application/json"]?.schema;
  if (body && success) {
    for (const [name, schema] of namedSchemas(success, all)) {
      section.append(element("h3", `${name} (response: ${typeOf(success)})`));
      section.append(table(["field", "type", "meaning"], fields(schema).map(([name, type, , meaning]) => [name, type, meaning])));
    }
  }
  const statuses = Object.entries(operation.responses ?? {}).map(([status, response]) => [element("code", status), response.description]);
  section.append(element("h3", "Statuses"), table(["status", "meaning"], statuses));
  return section;
}

async function start() {
  const api = await (await fetch("openapi.json")).json();
  document.getElementById("about").textContent = `${api.info.description} Version ${api.info.version}.`;
  const url = new URL(".", document.baseURI).href;
  const needsKey = Boolean(api.components?.securitySchemes);
  const key = needsKey ? "  -H 'Authorization: Bearer YOUR-KEY' \\\n" : "";
  const inputs = '{"inputs": {"question": "When was the harbour dug?",\n              "context": "The harbour was dug in 1874."},\n   "parameters": {"top_k": 3}}';
  document.getElementById("curl").textContent =
    `curl ${url} \\\n${key}  -H 'Content-Type: application/json' \\\n  -d '${inputs}'`;
  document.getElementById("python").textContent = [
    "from huggingface_hub import InferenceClient",
    "",
    `client = InferenceClient("${url}"${needsKey ? ', token="YOUR-KEY"' : ""})`,
    'client.question_answering(question="When was the harbour dug?", context="The harbour was dug in 1874.")',
  ].join("\n");
  const sections = Object.entries(api.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => sectionOf(path, method, operation, api.components.schemas)),
  );
  document.getElementById("paths").replaceChildren(...sections);
}

start().catch(() => {
  document.getElementById("error").textContent = "The API description could not be loaded. Is the server still running?";
});
