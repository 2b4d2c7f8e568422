// Shows /v1/openapi.json. All text goes in as text.
"use strict";

const METHODS = ["get", "post", "put", "delete"];

function el(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// `code` in descriptions.
function words(text) {
  const parts = (text || "").split("`");
  return parts.map((part, i) => (i % 2 ? el("code", {}, part) : part));
}

const nameOf = (ref) => ref.split("/").pop();

// What a schema is, in a few words and links.
function kind(schema) {
  if (!schema) return ["nothing"];
  if (schema.$ref) return [el("a", { href: "#schema-" + nameOf(schema.$ref) }, nameOf(schema.$ref))];
  for (const any of [schema.oneOf, schema.anyOf]) {
    if (!any) continue;
    const real = any.filter((one) => one.type !== "null");
    return real.flatMap((one, i) => (i ? [" or ", ...kind(one)] : kind(one)));
  }
  if (schema.allOf) return schema.allOf.flatMap((one, i) => (i ? [" and ", ...kind(one)] : kind(one)));
  if (schema.enum) return schema.enum.flatMap((value, i) => [i ? " " : "", el("code", {}, String(value))]);
  if (schema.additionalProperties) return ["names and values"];
  const types = [].concat(schema.type || "anything").filter((type) => type !== "null");
  if (types[0] === "array") return ["list of ", ...kind(schema.items)];
  return [types.join(" or ")];
}

function range(schema) {
  const said = [];
  const say = (test, text) => { if (test !== undefined) said.push(text); };
  const least = schema.minimum, most = schema.maximum;
  if (least !== undefined && most !== undefined) said.push(least + " to " + most);
  else { say(least, "at least " + least); say(most, "at most " + most); }
  if (schema.minLength !== undefined || schema.maxLength !== undefined) {
    said.push((schema.minLength || 0) + " to " + (schema.maxLength ?? "any number of") + " characters");
  }
  say(schema.default, "usually " + JSON.stringify(schema.default));
  return said.length ? ", " + said.join(", ") : "";
}

function row(name, schema, required, text) {
  return el("tr", {}, el("td", {}, el("code", {}, name)),
    el("td", {}, ...kind(schema), range(schema || {}), required ? el("strong", {}, " needed") : null),
    el("td", {}, ...words(text)));
}

function fields(schema) {
  const own = Object.entries(schema.properties || {});
  const said = (field) => field.description || (field.oneOf || []).map((one) => one.description).find(Boolean);
  const rows = own.map(([name, field]) => row(name, field, (schema.required || []).includes(name), said(field)));
  return rows.length ? el("table", {}, ...rows) : el("p", {}, ...kind(schema));
}

function content(body) {
  return Object.entries((body && body.content) || {}).flatMap(([type, { schema }], i) =>
    [i ? "; " : " ", ...(schema ? kind(schema) : []), " ", el("code", {}, type)]);
}

function operation(method, path, op) {
  const section = el("section", { id: op.operationId },
    el("h3", {}, el("span", { class: "verb " + method }, method.toUpperCase()), path),
    el("p", {}, ...words([op.summary, op.description].filter(Boolean).join(" "))));
  if ((op.parameters || []).length) {
    const rows = op.parameters.map((p) => row(p.name, p.schema, p.required, p.description));
    section.append(el("h4", {}, "Parameters"), el("table", {}, ...rows));
  }
  if (op.requestBody) section.append(el("h4", {}, "Body"), el("p", {}, ...content(op.requestBody)));
  const answers = Object.entries(op.responses).map(([status, answer]) =>
    el("tr", {}, el("td", {}, el("code", {}, status)), el("td", {}, ...content(answer)), el("td", {}, ...words(answer.description))));
  section.append(el("h4", {}, "Answers"), el("table", {}, ...answers));
  return section;
}

function schemaSection(name, schema) {
  const variants = schema.oneOf || schema.allOf;
  const inner = variants ? variants.map((one) => el("div", {}, el("p", {}, ...words(one.description)), fields(one))) : [fields(schema)];
  return el("section", { id: "schema-" + name }, el("h3", {}, name), el("p", {}, ...words(schema.description)), ...inner);
}

function show(api) {
  const nav = document.getElementById("nav");
  const main = document.getElementById("main");
  main.replaceChildren(el("h1", {}, api.info.title + " API"), el("p", {}, ...words(api.info.description)),
    el("p", {}, el("a", { href: "/v1/openapi.json" }, "openapi.json")));
  for (const tag of api.tags) {
    main.append(el("h2", {}, tag.name), el("p", {}, ...words(tag.description)));
    nav.append(el("h2", {}, tag.name));
    for (const [path, item] of Object.entries(api.paths)) {
      for (const method of METHODS) {
        const op = item[method];
        if (!op || !op.tags.includes(tag.name)) continue;
        main.append(operation(method, path, op));
        nav.append(el("a", { href: "#" + op.operationId, title: path }, op.operationId));
      }
    }
  }
  main.append(el("h2", {}, "schemas"));
  nav.append(el("h2", {}, "schemas"));
  for (const [name, schema] of Object.entries(api.components.schemas)) {
    main.append(schemaSection(name, schema));
    nav.append(el("a", { href: "#schema-" + name }, name));
  }
  if (location.hash) document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
}

fetch("/v1/openapi.json").then((answer) => answer.json()).then(show).catch((error) => {
  document.getElementById("main").append(el("p", {}, "It cannot be shown: " + error));
});
