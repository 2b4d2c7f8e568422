// The package `tencentcloud-sdk-nodejs`: its typed client, and its generic one for the rest.
"use strict";

const steps = require("./steps.js");
const { createRequire } = require("node:module");
const installed = createRequire(`${process.env.PACKAGES}/`);
const { trtc } = installed("tencentcloud-sdk-nodejs/tencentcloud/services/trtc");
const { CommonClient } = installed("tencentcloud-sdk-nodejs/tencentcloud/common/common_client");

async function call(step) {
    const { host, key, secret, token, region, action, version, method, sign, params = {} } = step;
    const config = {
        credential: { secretId: key, secretKey: secret, token },
        region,
        // The protocol is written with its slashes, and the endpoint without.
        profile: { signMethod: sign, httpProfile: { endpoint: host, protocol: "http://", reqMethod: method } },
    };
    if (step.typed) {
        return new trtc.v20190722.Client(config)[action](params);
    }
    return new CommonClient(host, version, config).request(action, params, { skipSign: step.skip_sign });
}

steps.run(call);
