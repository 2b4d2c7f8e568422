// What is not of one cast: sessions, nodes, applications, their use, the audit, and the vendors' actions.

import { APPS, DAY, HOSTILE, HOUR, MINUTE, NODES, NOW, SECOND, castId, iso, noise } from "./common.mjs";

/** Sessions by their tokens. */
export const SESSIONS = {
    admin: { role: "administrator", app: null, permission: "admin", name: "ada@example.com" },
    app: { role: "application", app: "newsroom", permission: "operator", name: "otto@example.com" },
};
for (const session of Object.values(SESSIONS)) session.expires_at = iso(NOW + 12 * HOUR);

const GIB = 2 ** 30;
const LOADS = [[6.2, 24, 12], [13.4, 47, 21], [15.6, 61, 30]];

export const nodes = [...NODES, "lab-7<script>attacked=true</script>"].map((name, index) => {
    const [cores_used, used, casts] = LOADS[index] || [2, 4, 2];
    return {
        name, version: "1.0.0", roles: index ? ["api", "worker"] : ["api", "worker", "rooms"], labels: index === 2 ? ["gpu", "eu"] : [],
        cores: 16, cores_used, memory_bytes: 64 * GIB, memory_free_bytes: (64 - used) * GIB, casts, draining: index === 3,
        heartbeat_age_s: 0.4, lease: { health: "ok", renewal_age_s: 0.8 },
    };
});

function makeApplication(name, index) {
    const receiver = (path) => ({ url: `https://hooks.example.com/${path}`, secret: "…" });
    const settings = {
        max_casts: 200, room: { type: "embedded" },
        callbacks: { native: receiver("pagecast"), ...(index === 2 && { volcengine: receiver("volcengine") }) },
        storage: {
            default: { to: `s3://recordings/${name}?region=eu` }, ...(index === 2 && { backup: { to: `cos://backup/${name}` } }),
        },
    };
    const key = (number, disabled) => ({ id: `AK${name.toUpperCase()}${number}`, disabled });
    const defined_in = index === 1 ? "configuration" : "api";
    return { name, defined_in, keys: [key(1, false), key(2, true)], tokens: [{ id: "ab12cd" }, { id: "ff00aa" }], settings };
}

export const applications = APPS.map(makeApplication);

const ACTIONS = ["createCast", "stopCast", "removeKey", "replaceApplication", "signIn", "drainNode", "addPush"];
const ACTORS = ["ada@example.com", "token ab12cd", "vera@example.com", "one-time link"];

function targetOf(action, index) {
    if (action === "signIn") return null;
    if (action === "drainNode") return "/v1/nodes/worker-2/drain";
    if (["removeKey", "replaceApplication"].includes(action)) return "/v1/applications/newsroom/keys/AKNEWSROOM1";
    return `/v1/casts/${castId(900000 - index)}`;
}

export const audit = Array.from({ length: 230 }, (_, index) => {
    const action = ACTIONS[index % ACTIONS.length], byApplication = index % 5 === 2, refused = index % 11 === 3;
    return {
        id: 100000 - index, at: iso(NOW - 30 * SECOND - index * 1.6 * MINUTE), role: byApplication ? "application" : "administrator",
        app: byApplication ? APPS[index % 3] : null, actor: index === 4 ? HOSTILE : ACTORS[index % 4],
        via: index % 3 ? "console" : "api", address: `10.0.${index % 7}.${index % 250}`, action, target: targetOf(action, index),
        status: refused ? 403 : 200, count: index % 44 === 3 ? 120 : 1, request_id: `request-${index}`,
    };
});

/** What applications used in the last 90 days. */
export const use = Array.from({ length: 90 }, (_, age) => APPS.map((app, index) => {
    const day = iso(NOW - age * DAY).slice(0, 10);
    const share = [0, 6].includes(new Date(day).getUTCDay()) ? 0.35 : 1;
    const amount = (least, span, seed) => share * (least + span * noise(age, index, seed));
    return {
        day, app, casts: Math.round(amount(12, 11, 1)), cast_hours: amount(8, 17, 2), core_hours: amount(6, 13, 3),
        bytes: Math.round(amount(3e9, 8e9, 4)),
    };
})).flat();

/** Parameter of a vendor's action. */
function parameter(name, type, required, more = {}) {
    const example = type === "string" ? (/url/i.test(name) ? "https://example.com/talk" : `${name.toLowerCase()}_1`) : null;
    const none = { default: null, minimum: null, maximum: null, values: null, parameters: [], description: "" };
    return { name, type, required, secret: /Secret/.test(name), example, ...none, ...more };
}

const identity = [
    parameter("AppId", "string", true, { description: "Id of the application at the vendor." }),
    parameter("RoomId", "string", true, { description: "Room that the page is published in. 1 to 128 characters." }),
    parameter("UserId", "string", true, { description: "User that publishes." }),
    parameter("TaskId", "string", true, { description: "Id of the task; a second start with the same id is the same task." }),
];
const side = (initial) => ({ minimum: 50, maximum: 1920, default: initial });
const webcast = [
    ...identity, parameter("SourceURL", "string", true, { description: "Page to show." }),
    parameter("MaxRunningTime", "integer", false, { minimum: 60, maximum: 86400, default: 86400, description: "Longest time in seconds." }),
    parameter("VideoConfig", "object", false, {
        description: "Picture.",
        parameters: [parameter("Width", "integer", false, side(1280)), parameter("Height", "integer", false, side(720))],
    }),
];
const task = [parameter("TaskId", "string", true), parameter("SdkAppId", "integer", true, { description: "Id of the application." })];
const action = (api, name, summary, parameters) =>
    ({ api, action: name, version: api === "tencent" ? "2019-07-22" : "2023-11-01", summary, parameters });

export const explorer = {
    keys: APPS.map((app) => ({ app, id: `AK${app.toUpperCase()}1` })),
    actions: [
        action("volcengine", "StartWebcast", "Start to publish a page in a room.", webcast),
        action("volcengine", "GetWebCastTask", "Ask for the state of a task.", identity),
        action("volcengine", "StopWebcast", "Stop a task.", identity),
        action("tencent", "StartWebRecord", "Start to record a page.", [parameter("RecordUrl", "string", true), task[1]]),
        action("tencent", "DescribeWebRecord", "Ask whether a task runs.", task),
        action("tencent", "StopWebRecord", "Stop a recording.", task),
    ],
};

const CANONICAL = [
    "POST", "/", "Action=GetWebCastTask&Version=2023-11-01", "content-type:application/json", "host:127.0.0.1", "",
    "content-type;host", "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
].join("\n");
const TO_SIGN = "HMAC-SHA256\n20260317T104200Z\n20260317/cn-north-1/rtc/request\n2fe1c8b0a4d7";

/** Answer to a call of the explorer. */
export function explorerCall({ action: name, key, parameters, send }) {
    const body = JSON.stringify(parameters);
    const scope = `Credential=${key}/20260317/cn-north-1/rtc/request`;
    const authorization = `HMAC-SHA256 ${scope}, SignedHeaders=content-type;host, Signature=5d1c…`;
    const answer = { ResponseMetadata: { RequestId: "2026031710", Action: name }, Result: { TaskId: "task_1", Note: HOSTILE } };
    const headers = { "Content-Type": "application/json", "X-Date": "20260317T104200Z", Authorization: authorization };
    const json = JSON.stringify(parameters, null, 4);
    return {
        request: { method: "POST", url: `http://127.0.0.1:8080/?Action=${name}&Version=2023-11-01`, headers, body },
        canonical_request: CANONICAL, string_to_sign: TO_SIGN, authorization,
        response: send ? { status: 200, headers: { "content-type": "application/json" }, body: JSON.stringify(answer) } : null,
        code: {
            python: `print(service.json("${name}", [], json.dumps(${json})))\n`, go: `package main\n\nfunc main() {\n\tcall("${name}")\n}\n`,
            node: `const answer = await call("${name}", ${json});\nconsole.log(answer);\n`,
            java: `class Call {\n    // ${name}\n}\n`, cli: `pagecast call ${name} --data '${body}'\n`,
        },
    };
}

const check = (name, ok, message) => ({ check: name, ok, message });

/** Explanation of a refused request. */
export const explanation = {
    api: "volcengine", verdict: "signature-mismatch", message: "The body was changed after it was signed.",
    server: { canonical_request: CANONICAL, string_to_sign: TO_SIGN },
    checks: [
        check("authorization", true, "The header has a credential, signed headers and a signature."),
        check("key", true, "AKDEMO1 is a key of demo."), check("date", true, "2 s from the clock of the server."),
        check("body", false, `X-Content-Sha256 is not the hash of the body ${HOSTILE}.`),
        check("signature", false, "The server computes another one."),
    ],
};

/** Result of the check of a page; `picture` is a data URL. */
export const checkResult = (url, picture) => ({
    ok: true, url, title: `Quarter results ${HOSTILE}`, http_status: 200, load_ms: 1240, ready_ms: 1810, problem: null, picture,
    failed_requests: [
        { url: `https://cdn.example.com/inter.woff2?${HOSTILE}`, reason: "net::ERR_NAME_NOT_RESOLVED", status: null, type: "Font" },
        { url: "https://api.example.com/v2/metrics", reason: "403", status: 403, type: "Fetch" },
    ],
    console: [
        { level: "error", text: `Uncaught TypeError: Cannot read properties of undefined (reading 'map') ${HOSTILE}` },
        { level: "warning", text: "Slow network is detected." }, { level: "log", text: "board ready in 812 ms" },
    ],
    codecs: { h264: true, vp8: true, vp9: true, av1: false, aac: true, opus: true }, autoplay: { allowed: true },
    sound: { streams: 1, peak: [0.42, 0.38] }, fps: 29.4, cpu_cores: 0.84, memory_bytes: 512 * 2 ** 20,
    warnings: [{ kind: "large-video", message: "A video of 3840×2160 is larger than the picture." }],
    node: "worker-2", fits_now: false, fits_reason: "No node has 0.9 free cores.", took_ms: 8120,
});
