// The part of JSON Schema that the API's description uses: resolving, defaults, and checking of values.

/** Longest text for which a pattern is tried: patterns of the API are simple, texts may be a megabyte. */
const MAX_PATTERN_TEXT = 4096;

/** A schema with its reference followed and its `null` alternative removed. */
export function resolve(api, schema) {
  let current = schema;
  for (;;) {
    const description = current.description;
    if (current.$ref) {
      const target = current.$ref.split("/").slice(1).reduce((at, name) => at[name], api);
      current = { ...target, ...current, $ref: undefined, description: description || target.description };
    } else if (current.oneOf && current.oneOf.some((choice) => choice.type === "null")) {
      const choices = current.oneOf.filter((choice) => choice.type !== "null");
      const rest = choices.length === 1 ? choices[0] : { oneOf: choices };
      current = { ...rest, description: description || rest.description, default: current.default ?? rest.default };
    } else {
      return current;
    }
  }
}

/** Type of a resolved schema without `null`. */
export function typeOf(schema) {
  const types = [schema.type].flat().filter((type) => type && type !== "null");
  return types[0] || (schema.properties ? "object" : "string");
}

/** Range and length of a schema, in words; empty without any. */
export function rangeOf(schema) {
  const { minimum, maximum, maxLength, maxItems } = schema;
  const type = typeOf(schema);
  if (type === "integer" || type === "number") {
    if (minimum !== undefined && maximum !== undefined) return `${minimum} to ${maximum}`;
    if (minimum !== undefined && minimum !== 0) return `${minimum} or more`;
    if (maximum !== undefined) return `at most ${maximum}`;
  }
  if (type === "array" && maxItems) return `at most ${maxItems}`;
  if (type === "string" && maxLength && maxLength <= 1024) return `at most ${maxLength} characters`;
  return "";
}

/** What is wrong with a value of a simple type, or an empty text. */
export function problemOf(schema, value) {
  const type = typeOf(schema);
  if (value === schema.default) return "";
  if (type === "integer" || type === "number") {
    if (!Number.isFinite(value)) return "This is not a number.";
    if (type === "integer" && !Number.isInteger(value)) return "Only whole numbers are allowed.";
    const { minimum = -Infinity, maximum = Infinity, multipleOf } = schema;
    if (value < minimum || value > maximum) return `Allowed is ${rangeOf(schema)}.`;
    if (multipleOf && value % multipleOf) return multipleOf === 2 ? "The number must be even." : `The number must be a multiple of ${multipleOf}.`;
  }
  if (type === "string") {
    if (schema.minLength && value.length < schema.minLength) return `At least ${schema.minLength} characters are needed.`;
    if (schema.maxLength && [...value].length > schema.maxLength) return `At most ${schema.maxLength} characters are allowed.`;
    if (schema.pattern && value.length <= MAX_PATTERN_TEXT && !new RegExp(schema.pattern, "u").test(value)) return patternText(schema.pattern);
  }
  return "";
}

/** A pattern of the API in words. */
function patternText(pattern) {
  const simple = /^\^\[([^\]]+)\]\{(\d+),(\d+)\}\$$/.exec(pattern);
  if (!simple) return `The value must match ${pattern}`;
  const set = simple[1] === "!-~" ? "printable ASCII characters without blanks" : simple[1].replace("A-Za-z0-9", "letters, digits and ").replace("a-z0-9", "small letters, digits and ").split("").join("").replace(/ and $/, "");
  return `Allowed are ${simple[2]} to ${simple[3]} characters: ${set}`;
}

/** Description of a field in plain text: Markdown's code marks are left out. */
export const describe = (schema) => (schema.description || "").replace(/`/g, "").replace(/\s+/g, " ").trim();

const KNOWN_LABELS = {
  css: "Style sheet", url: "URL", fps: "fps", tls: "TLS", ca: "CA certificates", udp: "UDP", ice: "ICE", pin: "PIN", "cpu weight": "CPU weight", "app id": "AppId",
  "sdk app id": "SdkAppId", "cos endpoint": "COS endpoint", "s3 endpoint": "S3 endpoint", "vod endpoint": "VOD endpoint", "vod keys": "VOD keys",
};

/** Name of a field for people: `max_time_s` is "max time (s)". */
export function labelOf(name) {
  const unit = /_(s|ms|kbps|mib)$/.exec(name);
  const text = name.replace(/_(s|ms|kbps|mib)$/, "").replace(/_/g, " ");
  const units = { s: "s", ms: "ms", kbps: "kbit/s", mib: "MiB" };
  return `${KNOWN_LABELS[text] || text.charAt(0).toUpperCase() + text.slice(1)}${unit ? ` (${units[unit[1]]})` : ""}`;
}
