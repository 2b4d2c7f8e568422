// Casts, and what belongs to each: events, statistics, evidence, files, callbacks and the request.

import { APPS, HOSTILE, HOUR, MINUTE, NODES, NOW, SECOND, castId, iso, noise, pick } from "./common.mjs";

/** Pages in the order of `pictures.mjs`. */
const PAGES = [
    "https://dash.example.com/boards/quarter-results?theme=…", "https://studio.example.com/rooms/7214/lesson",
    "https://news.example.org/ticker", "https://slides.example.net/deck/42", "https://maps.example.com/live/harbour",
];

/** Casts that the tests open; they are the newest ones. */
export const LIVE = castId(900001), ENDED = castId(900000), VENDOR = castId(899999);

/** Statistics of cast `n` at a time; `frame` counts changes. */
export function statsOf(n, at, begin) {
    const t = at / SECOND + 40 * n, elapsed_ms = Math.max(0, Math.round(at - begin));
    const pause = Math.sin(t / 41) > 0.94 ? 9 : 0;
    return {
        at: iso(at), elapsed_ms, fps: 29.4 + 0.6 * Math.sin(t / 9) - pause,
        frames_captured: Math.round(elapsed_ms * 0.03), frames_encoded: Math.round(elapsed_ms * 0.021),
        frames_unchanged: Math.round(elapsed_ms * 0.009), frames_dropped: Math.floor(elapsed_ms / 60000),
        bytes: Math.round(elapsed_ms * 310 + 9e6 * Math.sin(t / 50)) + 9e6,
        peak: [Math.abs(Math.sin(t / 3.3)) * 0.6, Math.abs(Math.sin(t / 4.1)) * 0.5],
        cpu_cores: 0.62 + 0.2 * Math.sin(t / 17) + 0.3 * noise(n), upload_pending: Math.max(0, Math.round(2 * Math.sin(t / 23))),
        memory_bytes: Math.round((420 + 60 * Math.sin(t / 60) + 200 * noise(n, 2)) * 2 ** 20),
        room_bitrate_kbps: Math.round(1800 + 500 * Math.sin(t / 13)), room_rtt_ms: 24 + 5 * Math.sin(t / 5),
        room_loss: Math.max(0, 0.02 * Math.sin(t / 31)),
    };
}

const linksOf = (id) => Object.fromEntries(["cast", "deliveries", "events", "evidence", "files", "snapshot", "stats"]
    .map((name) => [name, name === "cast" ? `/v1/casts/${id}` : `/v1/casts/${id}/${name}`]));

const ENDS = [
    { reason: "stopped" }, { reason: "stopped" }, { reason: "duration-reached" },
    { reason: "page-failed", fault: "crashed", message: "The page crashed three times." },
];

/** The cast `n` of `count`; `more` replaces fields. */
function makeCast(n, count, state, more = {}) {
    const id = more.id || castId(n);
    const created = NOW - 2 * MINUTE - (count - n) * (HOUR / 20) - noise(n) * MINUTE;
    const length = (5 + 50 * noise(n, 3)) * MINUTE;
    const running = state === "live" || state === "starting";
    const begin = created + 3400;
    const cast = {
        id, app: pick(APPS, n, 4), api: pick(["v1", "v1", "volcengine", "tencent"], n, 5), state,
        node: state === "queued" ? null : pick(NODES, n, 6), stop_requested: false, closed: state === "ended",
        created_at: iso(created), max_time_s: 86400, pushes: [], warnings: [], links: linksOf(id), reloads: 0,
        source: { url: pick(PAGES, n, 7), width: 1280, height: 720, fps: 30, scale_factor: 1, bitrate_kbps: 2500 },
    };
    if (n % 23 === 20) cast.source.url = `https://evil.example/${HOSTILE}`;
    if (n % 17 === 3) cast.reloads = 1;
    if (state !== "queued") cast.started_at = iso(created + 1200);
    if (state === "live" || state === "ended") cast.live_at = iso(begin);
    if (state === "ended") Object.assign(cast, { ended_at: iso(begin + length), end: pick(ENDS, n, 8) });
    if (noise(n, 9) > 0.3) cast.recording = { name: id, format: "mp4", to: `s3://recordings/${cast.app}` };
    if (noise(n, 10) > 0.5) {
        const viewers = Math.floor(30 * noise(n, 11));
        cast.room = { room: `room-${n}`, user: "pagecast", state: state === "live" ? "running" : "idle", viewers };
    }
    if (noise(n, 12) > 0.7) {
        const pushState = state === "live" ? pick(["running", "running", "recovering"], n, 13) : "idle";
        cast.pushes.push({ id: 1, url: "rtmp://live.example.com/app/…", state: pushState });
    }
    if (state === "queued") cast.queue = { position: count - n + 1, waits_for: "room" };
    if (running) cast.stats = statsOf(n, NOW, begin);
    return { ...cast, ...more };
}

function stateAt(share) {
    if (share > 0.9) return "queued";
    if (share > 0.86) return "starting";
    return share > 0.25 ? "live" : "ended";
}

function liveCast(count) {
    const created = NOW - 14 * MINUTE;
    return makeCast(count, count, "live", {
        id: LIVE, app: "newsroom", api: "v1", node: "worker-2", reloads: 1, links: linksOf(LIVE),
        created_at: iso(created), started_at: iso(created + 8 * SECOND), live_at: iso(created + 11 * SECOND),
        source: { url: PAGES[0], width: 1920, height: 1080, fps: 30, scale_factor: 1, bitrate_kbps: 4500 },
        recording: { name: "quarter-results", format: "mp4", to: "s3://recordings/newsroom" },
        room: { room: "quarter", user: "pagecast", state: "running", viewers: 12, watch_url: "https://room.example/quarter" },
        pushes: [
            { id: 1, url: "rtmps://live.example.com/app/…", state: "running" },
            { id: 2, url: "srt://10.1.2.3:9000?…", state: "recovering", error: "connection refused" },
        ],
        stats: statsOf(3, NOW, created + 11 * SECOND),
    });
}

function endedCast(count) {
    const [created, ended] = [NOW - HOUR, NOW - 35 * MINUTE];
    const file = (name, bytes) => ({ name, bytes, begin_at: iso(created + 8 * SECOND), end_at: iso(ended) });
    const files = [file(`${HOSTILE}.mp4`, 48211313), file("keynote.mp4", 91733102)];
    return makeCast(1, count, "ended", {
        id: ENDED, app: "newsroom", api: "v1", node: "worker-1", links: linksOf(ENDED), room: undefined,
        created_at: iso(created), started_at: iso(created + 5 * SECOND), live_at: iso(created + 8 * SECOND),
        ended_at: iso(ended), end: { reason: "page-failed", fault: "crashed", message: `The page crashed: ${HOSTILE}` },
        source: { url: `${PAGES[3]}?title=${HOSTILE}`, width: 1280, height: 720, fps: 30, scale_factor: 1, bitrate_kbps: 2500 },
        recording: {
            name: "keynote", format: "mp4", to: "s3://recordings/newsroom", stored: { complete: true, backup: false, files },
        },
    });
}

const vendorCast = (count) => makeCast(count, count, "live", {
    id: VENDOR, app: "academy", api: "volcengine", links: linksOf(VENDOR), recording: undefined,
    source: { url: PAGES[1], width: 1280, height: 720, fps: 30, scale_factor: 1, bitrate_kbps: 2500 },
});

/** All casts by id: `count` of them, the newest of which are the ones that the tests open. */
export function makeCasts(count) {
    const others = Array.from({ length: count - 3 }, (_, index) => makeCast(index + 1, count - 3, stateAt((index + 1) / count)));
    return new Map([...others, vendorCast(count), endedCast(count), liveCast(count)].map((cast) => [cast.id, cast]));
}

/** Number of the picture of a cast's page. */
export const pictureOf = (cast) => Math.max(0, PAGES.findIndex((page) => cast.source.url.startsWith(page)));

/** Events of a cast, oldest first. */
export function eventsOf(cast) {
    const begin = Date.parse(cast.created_at), end = cast.ended_at ? Date.parse(cast.ended_at) : NOW;
    const push = (id, state, error) => ({ id, state, url: id === 1 ? "rtmps://live.example.com/app/…" : "srt://10.1.2.3:9000?…", error });
    const warning = { kind: "large-video", message: `A video of 3840×2160 is larger than the picture. ${HOSTILE}` };
    const list = [
        { event: "queued", at: begin }, { event: "started", at: begin + 8 * SECOND, node: cast.node || "worker-1" },
        { event: "live", at: begin + 11 * SECOND }, { event: "room", at: begin + 12 * SECOND, room: { state: "running" } },
        { event: "push", at: begin + 13 * SECOND, push: push(1, "running") },
        { event: "push", at: begin + 14 * SECOND, push: push(2, "running") },
        { event: "warning", at: begin + 95 * SECOND, warning },
        { event: "reloaded", at: begin + 4.5 * MINUTE, fault: "frozen" },
        { event: "push", at: begin + 8.5 * MINUTE, push: push(2, "recovering", `connection refused ${HOSTILE}`) },
        { event: "push", at: begin + 9.2 * MINUTE, push: push(2, "running") },
        { event: "push", at: begin + 12.8 * MINUTE, push: push(2, "recovering", "connection refused") },
    ].filter((event) => event.at < end);
    if (cast.ended_at) list.push({ event: "ended", at: end, end: cast.end });
    if (cast.recording?.stored) list.push({ event: "stored", at: end + 9 * SECOND, stored: cast.recording.stored });
    return list.map((event, index) => ({ id: `${cast.id}-${index + 1}`, seq: index + 1, ...event, at: iso(event.at) }));
}

/** Statistics of a cast's whole life. */
export function samplesOf(cast) {
    if (!cast.live_at) return [];
    const begin = Date.parse(cast.live_at), end = cast.ended_at ? Date.parse(cast.ended_at) : NOW;
    const step = Math.max(2 * SECOND, (end - begin) / 600);
    // The last one is at the end, so that the page has it from here or from the stream alike.
    const count = Math.floor((end - begin) / step) + 1;
    return Array.from({ length: count }, (_, index) => {
        const sample = statsOf(3, Math.round(end - (count - 1 - index) * step), begin);
        if (!cast.room) for (const name of ["room_bitrate_kbps", "room_rtt_ms", "room_loss"]) delete sample[name];
        return sample;
    });
}

/** Evidence of a cast's faults. */
export function evidenceOf(cast) {
    const names = [LIVE, ENDED].includes(cast.id) ? ["01-frozen.png", "01-frozen.log"] : [];
    return names.map((name) => ({ name, bytes: name.endsWith(".log") ? 812 : 40112, href: `/v1/casts/${cast.id}/evidence/${name}` }));
}

/** Files in the storage of a cast's recording. */
export function filesOf(cast) {
    const stored = cast.recording?.stored?.files || [];
    return stored.map(({ name, bytes }) => ({
        name, bytes, content_type: "video/mp4", playable: true, href: `/v1/casts/${cast.id}/files/${encodeURIComponent(name)}`,
    }));
}

/** Attempts to deliver a cast's callbacks. */
export function attemptsOf(cast) {
    if (![LIVE, ENDED].includes(cast.id)) return [];
    return eventsOf(cast).slice(0, 8).map(({ id, seq, at }) => ({
        event_id: id, seq, part: 0, at, duration_ms: 21 + seq * 9, url: "https://hooks.example.com/pagecast",
        ...(seq === 7
            ? { status: 500, error: "the receiver answered 500", answer: `<h1>Internal error</h1> ${HOSTILE}` }
            : { status: 200, answer: '{"ok":true}' }),
    }));
}

/** The request that made a cast. */
export function requestOf(cast) {
    const { url, width, height, fps, bitrate_kbps } = cast.source;
    if (cast.api === "v1") {
        const request = { app: cast.app, url, width, height, fps, bitrate_kbps, headers: { "X-Board": "…" } };
        Object.assign(request, { recording: { format: "mp4" }, room: { room: "quarter", user: "pagecast" } });
        return { api: "v1", action: "createCast", request: { ...request, script: "document.body.classList.add('clean')" } };
    }
    if (cast.api === "tencent") {
        return { api: "tencent", action: "StartWebRecord", request: { RecordUrl: url, SdkAppId: 1400000123 } };
    }
    const request = { AppId: "5f2c1a", RoomId: "lesson-7214", UserId: "webcast_1", TaskId: "task-1", SourceURL: url };
    const video = { FrameRate: fps, Width: width, Height: height };
    return { api: "volcengine", action: "StartWebcast", request: { ...request, VideoConfig: video, Token: "…" } };
}
