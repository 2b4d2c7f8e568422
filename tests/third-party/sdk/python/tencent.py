"""The package `tencentcloud-sdk-python-trtc`: its typed client, and its generic one for the rest."""

import json
import steps  # before the SDK
from tencentcloud.common.common_client import CommonClient
from tencentcloud.common.credential import Credential
from tencentcloud.common.profile.client_profile import ClientProfile
from tencentcloud.common.profile.http_profile import HttpProfile
from tencentcloud.trtc.v20190722 import models, trtc_client


def call(step):
    keys = Credential(step["key"], step["secret"], step.get("token"))
    # No http:// here: it would become part of the Host header.
    http = HttpProfile(protocol="http", endpoint=step["host"], reqMethod=step["method"], reqTimeout=30)
    profile = ClientProfile(signMethod=step["sign"], httpProfile=http)
    profile.unsignedPayload = step.get("unsigned", False)
    action, params = step["action"], step.get("params", {})
    if step.get("typed"):
        client = trtc_client.TrtcClient(keys, step["region"], profile)
        request = getattr(models, f"{action}Request")()
        request.from_json_string(json.dumps(params))
        return json.loads(getattr(client, action)(request).to_json_string())
    client = CommonClient("trtc", step["version"], keys, step["region"], profile)
    return client.call_json(action, params, options={"SkipSign": step.get("skip_sign", False)})["Response"]


def describe(error):
    return {
        "code": getattr(error, "code", None),
        "message": str(getattr(error, "message", error)),
        "request_id": getattr(error, "requestId", None),
    }


steps.run(call, describe)
