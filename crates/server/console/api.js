// Requests to /v1 with the session's cookie.

/** Longest request, in milliseconds, unless the caller knows better: a snapshot may take five seconds. */
const TIMEOUT_MS = 20000;

/** What is called when the session is over. */
let onSignedOut = () => {};

/** An answer that is not a success, or none (status 0). */
export class ApiError extends Error {
  constructor(status, body, retryAfter) {
    const error = (body && body.error) || body || {};
    super(sentence(error.message) || error.detail || error.title || (status ? `The server answered ${status}.` : "The server does not answer."));
    this.status = status;
    this.code = error.code || "";
    /** Field of the request that the error is about, like `room.layers[0].width`. */
    this.field = error.field || "";
    /** Time after which to try again, in seconds, if the server says so. */
    this.retryAfterS = Number(retryAfter) || 0;
  }
}

/** A message of the API as a sentence. */
export function sentence(text) {
  if (!text) return "";
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?…]$/.test(text) ? "" : ".");
}

/** Sends a request; resolves to the response, or throws an ApiError. */
export async function send(method, path, body, { signal, headers = {}, keepSession = false, timeoutMs = TIMEOUT_MS } = {}) {
  const timeout = AbortSignal.timeout(timeoutMs);
  const options = { method, headers: { Accept: "application/json", ...headers }, cache: "no-store", credentials: "same-origin" };
  options.signal = signal && AbortSignal.any ? AbortSignal.any([signal, timeout]) : signal || timeout;
  // The server refuses changes without it: a form of another site cannot set a header.
  if (method !== "GET") options.headers["Pagecast-Console"] = "1";
  if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (signal && signal.aborted) throw error;
    throw new ApiError(0);
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => null);
  if (response.status === 401 && !keepSession) onSignedOut();
  throw new ApiError(response.status, problem, response.headers.get("Retry-After"));
}

async function json(response) {
  if (response.status === 204) return null;
  return response.json().catch(() => null);
}

export const get = async (path, options) => json(await send("GET", path, undefined, options));
export const post = async (path, body, options) => json(await send("POST", path, body, options));
export const put = async (path, body, options) => json(await send("PUT", path, body, options));
export const remove = async (path, body, options) => json(await send("DELETE", path, body, options));

/** Sets what is called when a request finds the session over. */
export function handleSignedOut(handler) {
  onSignedOut = handler;
}

/** Whether a session may change something: a viewer may not. */
export const mayOperate = (session) => session.permission !== "viewer";

/** Whether a session may change applications, keys and nodes. */
export const mayManage = (session) => session.permission === undefined || session.permission === "admin";

/** The session, or null without one. */
export async function readSession() {
  try {
    return await get("/v1/session", { keepSession: true });
  } catch (error) {
    if (error.status === 401) return null;
    throw error;
  }
}

/** How one can sign in: `token`, and `oidc` with the label of its provider. */
export const readMethods = () => get("/v1/session/methods", { keepSession: true });

/** Starts a session with `{ token }` or `{ code }`. */
export const signIn = (credentials) => post("/v1/session", credentials, { keepSession: true });

/** Ends this session, or all sessions of its token. */
export const signOut = (everywhere) => remove(`/v1/session${everywhere ? "?everywhere=true" : ""}`, undefined, { keepSession: true });

/** Path of a cast, or of something below it. */
export const castPath = (id, ...rest) => ["/v1/casts", encodeURIComponent(id), ...rest].join("/");

/** Path of an application, or of something below it. */
export const applicationPath = (name, ...rest) =>
  ["/v1/applications", encodeURIComponent(name), ...rest.map(encodeURIComponent)].join("/");

let description;

/** The OpenAPI description of this service, read once. */
export function readOpenApi() {
  description ||= get("/v1/openapi.json").catch((error) => {
    description = undefined;
    throw error;
  });
  return description;
}
