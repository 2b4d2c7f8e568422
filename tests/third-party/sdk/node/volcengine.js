// The package `@volcengine/openapi`, by its generic client: its class for RTC knows no webcasts.
"use strict";

const steps = require("./steps.js");
const { createRequire } = require("node:module");
const installed = createRequire(`${process.env.PACKAGES}/`);
const { Service, Signer } = installed("@volcengine/openapi");

async function call(step) {
    const { host, key, secret, token, service, region, action, version, method, params = {} } = step;
    if (step.query) {
        const request = { region, method: "GET", params: { ...params, Action: action, Version: version } };
        const signer = new Signer(request, service);
        const query = signer.getSignUrl({ accessKeyId: key, secretKey: secret, sessionToken: token });
        const answer = await fetch(`http://${host}/?${query}`);
        return { status: answer.status, body: await answer.json() };
    }
    // The protocol is written with its colon.
    const options = { serviceName: service, host, protocol: "http:", region };
    const client = new Service({ ...options, accessKeyId: key, secretKey: secret, sessionToken: token });
    const create = method === "POST" ? client.createJSONAPI : client.createAPI;
    return create.call(client, action, { Version: version, method })(params);
}

steps.run(call);
