"""The package `volcengine`: it has no module for RTC, so actions are declared, as its users do it."""

import json
import steps  # before the SDK
import requests
from volcengine.ApiInfo import ApiInfo
from volcengine.Credentials import Credentials
from volcengine.ServiceInfo import ServiceInfo
from volcengine.base.Service import Service


def call(step):
    keys = Credentials(step["key"], step["secret"], step["service"], step["region"], step.get("token", ""))
    info = ServiceInfo(step["host"], {"Accept": "application/json"}, keys, 30, 30, "http")
    query = {name: step[name.lower()] for name in ("Action", "Version") if name.lower() in step}
    service = Service(info, {"call": ApiInfo(step["method"], "/", query, {}, {})})
    params = step.get("params", {})
    if step.get("query"):
        answer = requests.get(f"http://{step['host']}/?{service.get_sign_url('call', params)}", timeout=30)
        return {"status": answer.status_code, "body": answer.json()}
    if step["method"] == "GET":
        return json.loads(service.get("call", params))
    return json.loads(service.json("call", {}, step.get("body", json.dumps(params))))


steps.run(call, lambda error: {"body": steps.text(error.args[0]), "bytes": isinstance(error.args[0], bytes)})
