// Reads steps, one JSON object a line, and writes for each what an SDK returned or threw. It judges nothing.
// Loaded before the SDK, because a step may set a wrong clock.
"use strict";

const readline = require("node:readline");

// Offset of the clock, in milliseconds.
let clockOffset = 0;
const Right = Date;
globalThis.Date = class extends Right {
    constructor(...parts) {
        super(...(parts.length ? parts : [Right.now() + clockOffset]));
    }

    static now() {
        return Right.now() + clockOffset;
    }
};

async function attempt(call, step) {
    try {
        return { returned: (await call(step)) ?? null };
    } catch (error) {
        const { message, code, requestId, httpCode } = error;
        const raised = { type: error.constructor.name, message, code, request_id: requestId, status: httpCode };
        return { raised };
    }
}

exports.run = async (call) => {
    for await (const line of readline.createInterface({ input: process.stdin })) {
        const step = JSON.parse(line);
        clockOffset = 1000 * (step.clock ?? 0);
        const all = Array.from({ length: step.times ?? 1 }, () => attempt(call, step));
        const answers = await Promise.all(all);
        process.stdout.write(`${JSON.stringify(step.times ? { all: answers } : answers[0])}\n`);
    }
};
