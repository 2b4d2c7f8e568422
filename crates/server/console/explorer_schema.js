// Descriptions of the vendors' parameters as schemas, from which forms are made.

/** Schema of one parameter. */
function schemaOf(parameter) {
  const { type, description, default: standard, minimum, maximum, values, secret, example, parameters = [] } = parameter;
  const range = { string: ["minLength", "maxLength"], array: ["minItems", "maxItems"] }[type] || ["minimum", "maximum"];
  const schema = { type, description };
  if (standard !== null && standard !== undefined) schema.default = standard;
  if (Number.isFinite(minimum)) schema[range[0]] = minimum;
  if (Number.isFinite(maximum)) schema[range[1]] = maximum;
  if (values && values.length) schema.enum = values;
  if (secret) schema.writeOnly = true;
  if (example !== null && typeof example !== "object") schema.example = String(example);
  if (type === "object" && parameters.length) Object.assign(schema, formSchema(parameters));
  if (type === "array") schema.items = parameters.length ? { type: "object", ...formSchema(parameters) } : { type: "string" };
  return schema;
}

/** Schema of an object with these parameters. */
export function formSchema(parameters) {
  return {
    properties: Object.fromEntries(parameters.map((parameter) => [parameter.name, schemaOf(parameter)])),
    required: parameters.filter(({ required }) => required).map(({ name }) => name),
  };
}
