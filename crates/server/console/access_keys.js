// The access keys of an application, by their ids.

import { applicationPath, get } from "./api.js";

let description;

/** The description of the vendors' actions, read once. */
export function readExplorer() {
  description ||= get("/v1/explorer").catch((error) => {
    description = undefined;
    throw error;
  });
  return description;
}

/** Ids of the keys that a session may sign with for an application. */
export async function readKeys(session, app) {
  const { keys } = await readExplorer();
  if (keys) return keys.filter((key) => key.app === app).map((key) => key.id);
  if (session.role !== "administrator") return [];
  const list = await get(applicationPath(app, "keys"));
  return list.keys.filter((key) => !key.disabled).map((key) => key.id);
}
