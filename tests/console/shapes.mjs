// Compares values with schemas of an OpenAPI document, as far as the mock needs it.

const typeOf = (value) => {
    if (value === null) return "null";
    if (Array.isArray(value)) return "array";
    return Number.isInteger(value) ? "integer" : typeof value;
};

const resolve = (document, { $ref, ...schema }) =>
    ($ref ? document.components.schemas[$ref.split("/").pop()] : schema);

const fitsType = (types, type) => types.includes(type) || (type === "integer" && types.includes("number"));

/** Where a value has another type than its schema, lacks a field, or has an unknown one. */
export function violations(document, schema, value, path = "$") {
    if (schema.$ref) return violations(document, resolve(document, schema), value, path);
    if (schema.oneOf) {
        const all = schema.oneOf.map((choice) => violations(document, choice, value, path));
        return all.some((found) => !found.length) ? [] : all.flat();
    }
    if (schema.allOf) return violations(document, merge(document, schema.allOf), value, path);
    const type = typeOf(value);
    if (schema.type && !fitsType([schema.type].flat(), type)) {
        return [`${path} is ${type}, not ${schema.type}`];
    }
    if (schema.enum && !schema.enum.includes(value)) return [`${path} is ${JSON.stringify(value)}`];
    if (type === "array" && schema.items) {
        return value.flatMap((item, index) => violations(document, schema.items, item, `${path}[${index}]`));
    }
    if (type !== "object" || !schema.properties) return [];
    const missing = (schema.required || []).filter((name) => value[name] === undefined);
    const fields = Object.entries(value).filter(([, field]) => field !== undefined);
    return [
        ...missing.map((name) => `${path}.${name} is missing`),
        ...fields.flatMap(([name, field]) => {
            const known = schema.properties[name];
            if (known) return violations(document, known, field, `${path}.${name}`);
            return schema.additionalProperties ? [] : [`${path}.${name} is unknown`];
        }),
    ];
}

/** One schema with the fields of all parts. */
function merge(document, parts) {
    const resolved = parts.map((part) => resolve(document, part));
    return {
        type: "object", required: resolved.flatMap(({ required = [] }) => required),
        properties: Object.assign({}, ...resolved.map(({ properties }) => properties)),
    };
}
