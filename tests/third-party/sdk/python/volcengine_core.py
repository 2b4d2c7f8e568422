"""The package `volcenginesdk-core`, by its generic client: there is no generated one for RTC."""

import steps  # before the SDK
import requests
import volcenginesdkcore
from volcenginesdkcore.signv4 import SignerV4


def call(step):
    params = step.get("params", {})
    if step.get("query"):
        query = dict(params, Action=step["action"], Version=step["version"])
        signed = SignerV4.sign_url(
            "/", "GET", query, step["key"], step["secret"], step["region"], step["service"], host=step["host"]
        )
        answer = requests.get(f"http://{step['host']}/?{signed}", timeout=30)
        return {"status": answer.status_code, "body": answer.json()}
    configuration = volcenginesdkcore.Configuration()
    configuration.host, configuration.scheme = step["host"], "http"
    configuration.ak, configuration.sk, configuration.region = step["key"], step["secret"], step["region"]
    configuration.session_token = step.get("token", "")
    # By default it retries after 429 and 5xx.
    configuration.auto_retry = step.get("retry", True)
    method = step["method"]
    kind = "application/json" if method == "POST" else None
    info = volcenginesdkcore.UniversalInfo(method, step["service"], step["version"], step["action"], kind)
    return volcenginesdkcore.UniversalApi(volcenginesdkcore.ApiClient(configuration)).do_call(info, params)


def describe(error):
    # It has no body if the service responds 200 with an error.
    body = getattr(error, "body", None)
    return {"status": getattr(error, "status", None), "body": body and steps.text(body)}


steps.run(call, describe)
