// Serves the console and a /v1 with fixed data, so that every view looks the same each time. Prints its port
// on the first line, and ends when its standard input closes. The shapes of its answers are checked against
// the OpenAPI document. Usage: node tests/console/mock_api.mjs [--casts=N] [--changes=N], N changes a second.
//
// To look at a view by hand, open /console/ at that port and sign in with the token `admin` or `app`.

import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { extname } from "node:path";

import {
    attemptsOf, eventsOf, evidenceOf, filesOf, makeCasts, pictureOf, requestOf, samplesOf, statsOf,
} from "./data/casts.mjs";
import { HOSTILE, NOW, SECOND } from "./data/common.mjs";
import { picture } from "./data/pictures.mjs";
import { pngUrl } from "./data/png.mjs";
import {
    SESSIONS, applications, audit, checkResult, explanation, explorer, explorerCall, nodes, use,
} from "./data/service.mjs";
import { violations } from "./shapes.mjs";

const read = (path) => readFileSync(new URL(`../../${path}`, import.meta.url), "utf8");

const OPENAPI = JSON.parse(read("docs/reference/openapi.json"));
/** The policy of the service, so that a view which breaks it fails here as well. */
const POLICY = /const POLICY: &str = "(.*?)";/s.exec(read("crates/server/src/console.rs"))[1]
    .replace(/\\\s+/g, "");
const CONTENT_TYPES = { ".js": "text/javascript", ".css": "text/css", ".html": "text/html" };

const options = Object.fromEntries(process.argv.slice(2).map((option) => option.slice(2).split("=")));
const casts = makeCasts(Number(options.casts || 60));
const changesPerSecond = Number(options.changes || 0);
const streams = new Set();

/** An error as the API answers it. */
class Refusal extends Error {
    constructor(status, code, message) {
        super(message);
        Object.assign(this, { status, code });
    }
}

/** A body that is no JSON. */
class Content {
    constructor(type, body) {
        Object.assign(this, { type, body });
    }
}

const svg = (index) => new Content("image/svg+xml", picture(index));
const newestFirst = () => [...casts.values()].sort((a, b) => (a.id < b.id ? 1 : -1));

function countsByState() {
    const counts = { queued: 0, starting: 0, live: 0, ended: 0 };
    for (const cast of casts.values()) counts[cast.state] += 1;
    return counts;
}

function findCast(id) {
    if (!casts.has(id)) throw new Refusal(404, "no-such-cast", "there is no such cast");
    return casts.get(id);
}

function findApplication(name) {
    const found = applications.find((application) => application.name === name);
    if (!found) throw new Refusal(404, "no-such-application", "there is no such application");
    return found;
}

/** A page of a list that is sorted by falling ids. */
function pageOf(list, query, limit) {
    const after = query.get("after");
    const isOlder = ({ id }) => (typeof id === "number" ? id < Number(after) : id < after);
    const rest = after ? list.filter(isOlder) : list;
    const page = rest.slice(0, Number(query.get("limit") || limit));
    return { page, next: page.length < rest.length ? page[page.length - 1].id : null };
}

function listCasts({ query }) {
    const states = (query.get("state") || "").split(",").filter(Boolean);
    const fits = (cast) => (!states.length || states.includes(cast.state))
        && ["app", "api"].every((name) => !query.get(name) || query.get(name) === cast[name]);
    const { page, next } = pageOf(newestFirst().filter(fits), query, 50);
    return { casts: page, next };
}

function listAudit({ query }) {
    const app = query.get("app");
    const { page, next } = pageOf(audit.filter((entry) => !app || entry.app === app), query, 100);
    return { entries: page, next };
}

function listUse({ query, session }) {
    const app = query.get("app") || session.app, from = query.get("from") || "", to = query.get("to") || "9";
    return { days: use.filter((day) => (!app || day.app === app) && day.day >= from && day.day <= to) };
}

const deliveries = ({ params: [id], session }) =>
    ({ attempts: attemptsOf(findCast(id)), ...(!session.app && { backlog: { pending: 0, given_up: 1 } }) });

function evidenceFile({ params: [id, name] }) {
    const cast = findCast(id);
    if (name.endsWith(".png")) return svg(pictureOf(cast));
    return new Content("text/plain", `10:32:31 error Uncaught TypeError ${HOSTILE}\n10:32:32 warning slow\n`);
}

/** Operations by method and path of the OpenAPI document. */
const OPERATIONS = {
    "GET /v1/session": ({ session }) => session,
    "GET /v1/openapi.json": () => OPENAPI,
    "GET /v1/casts": listCasts,
    "POST /v1/casts/check": ({ body }) => checkResult(body.url, pngUrl()),
    "GET /v1/casts/{id}": ({ params: [id] }) => findCast(id),
    "GET /v1/casts/{id}/deliveries": deliveries,
    "GET /v1/casts/{id}/events": ({ params: [id], query }) =>
        ({ events: eventsOf(findCast(id)).filter(({ seq }) => seq > Number(query.get("after") || 0)) }),
    "GET /v1/casts/{id}/evidence": ({ params: [id] }) => ({ files: evidenceOf(findCast(id)) }),
    "GET /v1/casts/{id}/evidence/{name}": evidenceFile,
    "GET /v1/casts/{id}/files": ({ params: [id] }) => ({ files: filesOf(findCast(id)) }),
    "GET /v1/casts/{id}/request": ({ params: [id] }) => requestOf(findCast(id)),
    "GET /v1/casts/{id}/snapshot.jpg": ({ params: [id] }) => svg(pictureOf(findCast(id))),
    "GET /v1/casts/{id}/stats": ({ params: [id] }) => ({ samples: samplesOf(findCast(id)) }),
    "GET /v1/nodes": () => ({ nodes }),
    "GET /v1/applications": () => ({ applications }),
    "GET /v1/applications/{name}": ({ params: [name] }) => findApplication(name),
    "GET /v1/audit": listAudit,
    "GET /v1/use": listUse,
    "GET /v1/explorer": () => explorer,
    "POST /v1/explorer/call": ({ body }) => explorerCall(body),
    "POST /v1/explorer/explain": () => explanation,
};

const ROUTES = Object.entries(OPERATIONS).map(([name, run]) => {
    const [method, path] = name.split(" ");
    return { method, path, run, pattern: new RegExp(`^${path.replace(/\{\w+\}/g, "([^/]+)")}$`) };
});

async function readJson(request) {
    const pieces = [];
    for await (const piece of request) pieces.push(piece);
    return pieces.length ? JSON.parse(Buffer.concat(pieces)) : {};
}

/** Result of an operation, whose shape is checked. */
async function runOperation(request, url, session) {
    for (const { method, path, pattern, run } of ROUTES) {
        const found = method === request.method && pattern.exec(url.pathname);
        if (!found) continue;
        const params = found.slice(1).map(decodeURIComponent);
        const value = run({ params, query: url.searchParams, session, body: await readJson(request) });
        const operation = OPENAPI.paths[path]?.[method.toLowerCase()];
        const schema = operation?.responses["200"].content["application/json"]?.schema;
        const wrong = schema && !(value instanceof Content) ? violations(OPENAPI, schema, value) : [];
        if (wrong.length) throw new Error(`${method} ${path} has a wrong shape: ${wrong.join("; ")}`);
        return value;
    }
    throw new Refusal(404, "not-found", `the mock has no ${request.method} ${url.pathname}`);
}

function sendJson(response, status, value, headers = {}) {
    const fixed = { "Content-Type": "application/json", "Cache-Control": "no-store" };
    response.writeHead(status, { ...fixed, ...headers });
    response.end(JSON.stringify(value));
}

function eventText(list) {
    const data = { casts: list, gone: [], counts: countsByState() };
    return `event: casts\ndata: ${JSON.stringify(data)}\n\n`;
}

function openStream(request, response) {
    response.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-cache" });
    response.write(eventText(newestFirst().filter((cast) => !cast.closed)));
    streams.add(response);
    request.on("close", () => streams.delete(response));
}

async function signIn(request, response) {
    const { token } = await readJson(request);
    if (!SESSIONS[token]) throw new Refusal(401, "unauthorized", "the token is unknown");
    sendJson(response, 201, SESSIONS[token], { "Set-Cookie": `pagecast=${token}; Path=/; HttpOnly` });
}

async function serveApi(request, response, url) {
    const operation = `${request.method} ${url.pathname}`;
    if (operation === "GET /v1/session/methods") {
        return sendJson(response, 200, { token: true, oidc: { label: "Example Corp" } });
    }
    if (operation === "POST /v1/session") return signIn(request, response);
    const session = SESSIONS[/pagecast=(\w+)/.exec(request.headers.cookie || "")?.[1]];
    if (!session) throw new Refusal(401, "unauthorized", "sign in");
    if (operation === "GET /v1/casts" && request.headers.accept?.includes("event-stream")) {
        return openStream(request, response);
    }
    const value = await runOperation(request, url, session);
    if (!(value instanceof Content)) return sendJson(response, 200, value);
    response.writeHead(200, { "Content-Type": value.type, "Cache-Control": "no-store" });
    return response.end(value.body);
}

function serveConsole(response, path) {
    const name = path.slice("/console/".length);
    const file = /^\w+\.(js|css)$/.test(name) ? name : "index.html";
    const content = read(`crates/server/console/${file}`);
    response.writeHead(200, {
        "Content-Type": `${CONTENT_TYPES[extname(file)]}; charset=utf-8`, "Cache-Control": "no-cache",
        "Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
    });
    response.end(content);
}

async function serve(request, response) {
    const url = new URL(request.url, "http://127.0.0.1");
    try {
        if (url.pathname.startsWith("/console/")) serveConsole(response, url.pathname);
        else await serveApi(request, response, url);
    } catch (error) {
        if (!(error instanceof Refusal)) console.error(error);
        const { status = 500, code = "internal", message } = error;
        sendJson(response, status, { error: { code, message }, request_id: "request" });
    }
}

/** Newest casts that change each second, because a list shows them first. */
const ALWAYS_CHANGED = 20;

let changed = 0;

/** Changes the statistics of the newest running casts and of some others, and tells all streams. */
function change() {
    const running = newestFirst().filter((cast) => cast.stats);
    const list = Array.from({ length: Math.min(changesPerSecond, running.length) }, (_, index) => {
        changed += 1;
        const cast = running[index < ALWAYS_CHANGED ? index : changed % running.length];
        const at = NOW + Math.round((changed * SECOND) / changesPerSecond);
        const next = { ...cast, stats: statsOf(changed, at, Date.parse(cast.created_at)) };
        casts.set(next.id, next);
        return next;
    });
    for (const stream of streams) stream.write(eventText(list));
}

if (changesPerSecond) setInterval(change, SECOND);
const server = createServer(serve);
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.resume().on("end", () => process.exit());
