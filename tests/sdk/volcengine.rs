//! Volcengine's SDKs: two for Python, one for Node.js, one for Go.

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::service::{ACCESS_KEY, APP_ID};
use pagecast_testkit::{Backend, MachineLock, PageServer, ServiceConfig, ServiceProcess};
use serde_json::{Value, json};

use crate::client::{Language, SdkClient, merge_patch, poll_until};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
const VERSIONS: [&str; 2] = ["2020-12-01", "2023-11-01"];
pub(crate) const ALREADY_STARTED: &str =
    "The task has been started. Please do not call the startup task interface repeatedly";
const TASK_NOT_FOUND: &str = "InvalidParameter.ErrorActiveTaskNotFound";
/// Another application, with its own keys.
const OTHER_APPLICATION_TOML: &str = "
    [[applications]]
    name = \"other\"
    app_id = \"fedcba9876543210fedcba98\"
    keys = [{ id = \"AKOTHER\", secret = \"another-secret\" }]
";

/// SDK of the vendor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SdkKind {
    /// The package `volcengine` for Python.
    Base,
    /// The package `volcenginesdk-core` for Python.
    Core,
    Node,
    Go,
}

use SdkKind::{Base, Core, Go, Node};

const ALL_KINDS: &[SdkKind] = &[Base, Core, Node, Go];

/// Error as an SDK presents it to its users.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) code: String,
    number: Option<u64>,
    /// HTTP status; some SDKs do not expose it.
    status: Option<u64>,
}

impl SdkKind {
    pub(crate) fn start(self, service: &ServiceProcess) -> Result<Option<SdkClient>> {
        match self {
            Base => SdkClient::start(Language::Python, "volcengine_base", service),
            Core => SdkClient::start(Language::Python, "volcengine_core", service),
            Node => SdkClient::start(Language::Node, "volcengine", service),
            Go => SdkClient::start(Language::Go, "volcengine", service),
        }
    }

    /// The `Result` of a call that must succeed, as this SDK returns it.
    pub(crate) fn expect_result(self, answer: &Value) -> Result<Value> {
        ensure!(answer.get("raised").is_none(), "{self:?} raised: {answer}");
        let returned = &answer["returned"];
        // This SDK returns only the result.
        if self == Core {
            return Ok(returned.clone());
        }
        let metadata = &returned["ResponseMetadata"];
        ensure!(metadata["Error"].is_null() && metadata["Service"] == "rtc", "{self:?} returned: {answer}");
        ensure!(metadata["RequestId"].as_str().is_some_and(|id| id.len() > 8), "no request id: {answer}");
        Ok(returned["Result"].clone())
    }

    /// Error of a refused call, as this SDK presents it.
    pub(crate) fn parse_error(self, answer: &Value, method: &str) -> Result<ApiError> {
        let (raised, returned) = (&answer["raised"], &answer["returned"]);
        let text = |value: &Value| -> Result<Value> {
            Ok(serde_json::from_str(value.as_str().with_context(|| format!("no body: {answer}"))?)?)
        };
        let (body, status) = match self {
            // An `Exception` with the text of the response.
            Base => {
                ensure!(raised["type"] == "Exception", "it raised no exception: {answer}");
                ensure!(raised["bytes"] == (method == "POST"), "{method}: {answer}");
                (text(&raised["body"])?, None)
            }
            Core => {
                ensure!(raised["type"] == "ApiException", "it raised no ApiException: {answer}");
                (text(&raised["body"])?, raised["status"].as_u64())
            }
            // This SDK never throws.
            Node => {
                ensure!(raised.is_null(), "it threw: {answer}");
                (returned.clone(), None)
            }
            // This SDK returns an error and the decoded response.
            Go => {
                let message = raised["message"].as_str().unwrap_or_default();
                ensure!(message.contains(" http code "), "it returned no error: {answer}");
                (returned.clone(), raised["status"].as_u64())
            }
        };
        let error = &body["ResponseMetadata"]["Error"];
        ensure!(body["Result"].is_null(), "a refusal with a result: {answer}");
        ensure!(error["Message"].as_str().is_some_and(|message| message.len() > 8), "no message: {answer}");
        ensure!(!body["ResponseMetadata"]["RequestId"].is_null(), "no request id: {answer}");
        let code = error["Code"].as_str().with_context(|| format!("no code: {answer}"))?.to_owned();
        Ok(ApiError { code, number: error["CodeN"].as_u64(), status })
    }
}

pub(crate) fn task_params(name: &str) -> Value {
    json!({ "AppId": APP_ID, "RoomId": "room@sdk-1.a_b", "TaskId": name })
}

/// Step that starts a small webcast of a page.
pub(crate) fn start_step(version: &str, task: &Value, page: &str) -> Value {
    let more = json!({
        "UserId": format!("webcast_{}", task["TaskId"].as_str().unwrap_or_default()),
        "SourceURL": page,
        "VideoSolutions": [{ "Width": 320, "Height": 180, "FrameRate": 5 }],
        "MonitorConfig": { "CrashCheckInterval": 5 },
        "EventNotifyConfig": { "EnableEventNotify": false, "StartTimeout": 0 },
        "MaxRunningTime": 300,
    });
    let params = merge_patch(task.clone(), &more);
    json!({ "action": "StartWebcast", "version": version, "params": params, "typed": true })
}

pub(crate) fn stop_step(version: &str, task: &Value) -> Value {
    json!({ "action": "StopWebcast", "version": version, "params": task, "typed": true })
}

pub(crate) fn get_step(version: &str, task: &Value) -> Value {
    json!({ "action": "GetWebCastTask", "version": version, "params": task, "method": "GET", "typed": true })
}

/// Waits until a task has this status, and returns its description.
pub(crate) fn wait_for_status(
    kind: SdkKind,
    sdk: &mut SdkClient,
    version: &str,
    task: &Value,
    status: u64,
) -> Result<Value> {
    poll_until(&format!("{task} has status {status}"), || {
        let found = kind.expect_result(&sdk.call(&get_step(version, task))?)?["WebCastTask"].clone();
        let now = found["Status"].as_u64().with_context(|| format!("no status: {found}"))?;
        ensure!(now <= status, "{task} has passed status {status}: {found}");
        Ok((now == status).then_some(found))
    })
}

/// Checks two tasks, one for each version of the API, from start to end.
fn check_lifecycle(kind: SdkKind, sdk: &mut SdkClient, page: &str) -> Result<()> {
    let tasks = VERSIONS.map(|version| (version, task_params(&format!("life.{version}@a"))));
    for (version, task) in &tasks {
        let started = sdk.call(&start_step(version, task, page))?;
        ensure!(kind.expect_result(&started)? == "ok", "{started}");
    }
    for (version, task) in &tasks {
        let found = wait_for_status(kind, sdk, version, task, 2)?;
        let expected = &start_step(version, task, page)["params"];
        for name in ["UserId", "SourceURL", "MaxRunningTime", "EventNotifyConfig"] {
            ensure!(found[name] == expected[name], "{name}: {found}");
        }
        ensure!(found["VideoSolutions"][0]["Width"] == 320 && found["StopReason"] == "", "{found}");
        ensure!(found["StartTime"].as_u64() > Some(1_700_000_000_000) && found["EndTime"] == 0, "{found}");
        let again = sdk.call(&start_step(version, task, page))?;
        ensure!(kind.expect_result(&again)? == ALREADY_STARTED, "{again}");
        check_query_signature(sdk, version, task)?;
    }
    // The application is limited to two casts.
    let third = start_step(VERSIONS[0], &task_params("third"), page);
    let refusal = kind.parse_error(&sdk.call(&third)?, "POST")?;
    expect_error(kind, "a third task", refusal, ("FlowLimitExceeded.TaskNumberOverLimit", None, 429))?;
    for (version, task) in &tasks {
        let stopped = sdk.call(&stop_step(version, task))?;
        ensure!(kind.expect_result(&stopped)? == "ok", "{stopped}");
    }
    for (version, task) in &tasks {
        let found = wait_for_status(kind, sdk, version, task, 3)?;
        ensure!(found["StopReason"] == "StopByAPI" && found["EndTime"].as_u64() > Some(0), "{found}");
        let refusal = kind.parse_error(&sdk.call(&stop_step(version, task))?, "POST")?;
        expect_error(kind, "stopped again", refusal, (TASK_NOT_FOUND, None, 400))?;
    }
    Ok(())
}

fn check_query_signature(sdk: &mut SdkClient, version: &str, task: &Value) -> Result<()> {
    let step = merge_patch(get_step(version, task), &json!({ "query": true, "typed": false }));
    let answer = sdk.call(&step)?;
    let found = &answer["returned"]["body"]["Result"]["WebCastTask"];
    ensure!(answer["returned"]["status"] == 200 && found["Status"] == 2, "signed in the query: {answer}");
    let answer = sdk.call(&merge_patch(step, &json!({ "secret": "wrong" })))?;
    let (status, metadata) = (&answer["returned"]["status"], &answer["returned"]["body"]["ResponseMetadata"]);
    ensure!(*status == 401 && metadata["Error"]["Code"] == "SignatureDoesNotMatch", "{answer}");
    Ok(())
}

/// Compares an error with the documented code, number and status.
fn expect_error(
    kind: SdkKind,
    what: &str,
    actual: ApiError,
    expected: (&str, Option<u64>, u64),
) -> Result<()> {
    let (code, number, status) = expected;
    let status = matches!(kind, Core | Go).then_some(status);
    ensure!(
        actual == ApiError { code: code.to_owned(), number, status },
        "{kind:?}, {what}: {actual:?}, expected {expected:?}"
    );
    Ok(())
}

/// Name, change to a valid step, expected error, and the SDKs that can send it.
type ErrorCase = (&'static str, Value, (&'static str, Option<u64>, u64), &'static [SdkKind]);

/// Errors before the parameters are checked.
fn gateway_error_cases() -> Vec<ErrorCase> {
    let unsigned = ("SignatureDoesNotMatch", Some(100_010), 401);
    let unknown = ("InvalidAccessKey", Some(100_009), 401);
    let untimely = ("InvalidTimestamp", Some(100_006), 403);
    let nothing = ("InvalidActionOrVersion", Some(100_008), 404);
    // The SDK for Go uses the clock of the machine.
    let clocks: &[SdkKind] = &[Base, Core, Node];
    // A query cannot have objects.
    let flat = json!({ "VideoSolutions": null, "MonitorConfig": null, "EventNotifyConfig": null });
    vec![
        ("a wrong secret", json!({ "secret": "wrong" }), unsigned, ALL_KINDS),
        ("no secret of ours", json!({ "key": "AKOTHER" }), unsigned, ALL_KINDS),
        ("an unknown key", json!({ "key": "AKNOBODY" }), unknown, ALL_KINDS),
        ("a clock an hour behind", json!({ "clock": -3600 }), untimely, clocks),
        ("a clock an hour ahead", json!({ "clock": 3600 }), untimely, clocks),
        ("another service", json!({ "service": "vod" }), ("ServiceNotFound", Some(100_007), 404), ALL_KINDS),
        ("an unknown action", json!({ "action": "StartEverything" }), nothing, ALL_KINDS),
        ("an unknown version", json!({ "version": "2022-06-01" }), nothing, ALL_KINDS),
        ("no version", json!({ "version": "" }), ("MissingParameter", Some(100_002), 400), ALL_KINDS),
        ("no action", json!({ "action": "" }), ("MissingParameter", Some(100_002), 400), &[Base, Node, Go]),
        (
            "the wrong method",
            json!({ "method": "GET", "params": flat }),
            ("MethodNotAllowed", None, 405),
            ALL_KINDS,
        ),
    ]
}

/// Errors of parameters.
fn parameter_error_cases() -> Vec<ErrorCase> {
    const BAD: (&str, Option<u64>, u64) = ("InvalidParameter", None, 400);
    let params = |patch: Value| json!({ "params": patch });
    let bare = |name: &'static str| (name, None, 400);
    let long = format!("http://127.0.0.1/{}", "a".repeat(1025 - 17));
    let three = json!([{ "Width": 320 }, { "Width": 160 }, { "Width": 80 }]);
    let mut rows = vec![
        ("an empty body", json!({ "body": "" }), bare("InvalidParameter.BodyIsEmpty"), &[Base, Go][..]),
        ("half a body", json!({ "body": "{\"AppId\":" }), bare("InvalidParameter.Unmarshal"), &[Base, Go]),
        ("a list", json!({ "params": [1] }), bare("InvalidParameter.Unmarshal"), &[Base, Node]),
        (
            "an unknown application",
            params(json!({ "AppId": "0".repeat(24) })),
            bare("InvalidParameter.NotExistAppId"),
            ALL_KINDS,
        ),
        (
            "a malformed one",
            params(json!({ "AppId": "an app" })),
            bare("InvalidParameter.IllegalAppId"),
            ALL_KINDS,
        ),
        (
            "another's",
            params(json!({ "AppId": "fedcba9876543210fedcba98" })),
            bare("InvalidParameter.AccountIdMismatch"),
            ALL_KINDS,
        ),
        (
            "a malformed room",
            params(json!({ "RoomId": "a room" })),
            bare("InvalidParameter.IllegalRoomID"),
            ALL_KINDS,
        ),
        ("a malformed task", params(json!({ "TaskId": "a/b" })), BAD, ALL_KINDS),
        ("129 characters", params(json!({ "UserId": "u".repeat(129) })), BAD, ALL_KINDS),
        ("a long address", params(json!({ "SourceURL": long })), BAD, ALL_KINDS),
        ("no address of the web", params(json!({ "SourceURL": "file:///etc/passwd" })), BAD, ALL_KINDS),
        ("three solutions", params(json!({ "VideoSolutions": three })), BAD, ALL_KINDS),
        ("61 frames", params(json!({ "VideoSolutions": [{ "FrameRate": 61 }] })), BAD, ALL_KINDS),
        ("a text for a number", params(json!({ "MaxRunningTime": "60" })), BAD, ALL_KINDS),
        ("nine seconds", params(json!({ "MaxRunningTime": 9 })), BAD, ALL_KINDS),
        (
            "a number for a flag",
            params(json!({ "EventNotifyConfig": { "EnableEventNotify": 1 } })),
            BAD,
            ALL_KINDS,
        ),
        ("a list for an object", params(json!({ "MonitorConfig": [] })), BAD, ALL_KINDS),
        ("31 seconds", params(json!({ "MonitorConfig": { "FreezeCheckInterval": 31 } })), BAD, ALL_KINDS),
    ];
    for name in ["AppId", "RoomId", "TaskId", "UserId", "SourceURL"] {
        rows.push((name, params(json!({ name: null })), BAD, ALL_KINDS));
    }
    rows
}

fn check_errors(kind: SdkKind, sdk: &mut SdkClient) -> Result<()> {
    let good = merge_patch(
        start_step(VERSIONS[0], &task_params("never"), "http://127.0.0.1/"),
        &json!({ "typed": false }),
    );
    for (what, patch, expected, kinds) in gateway_error_cases().into_iter().chain(parameter_error_cases()) {
        if !kinds.contains(&kind) {
            continue;
        }
        for version in VERSIONS {
            let step = merge_patch(merge_patch(good.clone(), &json!({ "version": version })), &patch);
            let method = step["method"].as_str().unwrap_or("POST").to_owned();
            let refusal = kind.parse_error(&sdk.call(&step)?, &method).with_context(|| what.to_owned())?;
            expect_error(kind, what, refusal, expected)?;
        }
    }
    for version in VERSIONS {
        let unknown = task_params("nobody's");
        let missing = json!({ "AppId": APP_ID, "RoomId": "r", "TaskId": "" });
        for (step, method, code) in [
            (stop_step(version, &task_params("nobody-s")), "POST", TASK_NOT_FOUND),
            (get_step(version, &task_params("nobody-s")), "GET", TASK_NOT_FOUND),
            (stop_step(version, &unknown), "POST", "InvalidParameter"),
            (get_step(version, &unknown), "GET", "InvalidParameter"),
            (get_step(version, &missing), "GET", "InvalidParameter"),
            // Any region is accepted, so the request gets as far as the lookup of the task.
            (
                merge_patch(get_step(version, &task_params("t")), &json!({ "region": "ap-singapore-1" })),
                "GET",
                TASK_NOT_FOUND,
            ),
        ] {
            let refusal = kind.parse_error(&sdk.call(&step)?, method)?;
            expect_error(kind, &step.to_string(), refusal, (code, None, 400))?;
        }
        // Temporary keys are signed by the vendor's rule, but the service has none.
        for (step, method) in
            [(stop_step(version, &task_params("t")), "POST"), (get_step(version, &task_params("t")), "GET")]
        {
            let step = merge_patch(step, &json!({ "token": "STS2abc" }));
            let refusal = kind.parse_error(&sdk.call(&step)?, method)?;
            expect_error(kind, &step.to_string(), refusal, ("InvalidAccessKey", Some(100_009), 401))?;
        }
    }
    Ok(())
}

/// Checks the limit of requests per second.
fn check_rate_limit(kind: SdkKind, sdk: &mut SdkClient) -> Result<()> {
    let step = merge_patch(
        get_step(VERSIONS[0], &task_params("nobody-s")),
        &json!({ "times": 200, "retry": false }),
    );
    let refusal = poll_until("more than 60 requests within a second", || {
        let answer = sdk.call(&step)?;
        for one in answer["all"].as_array().with_context(|| format!("no answers: {answer}"))? {
            let refusal = kind.parse_error(one, "GET")?;
            if refusal.code != TASK_NOT_FOUND {
                return Ok(Some(refusal));
            }
        }
        Ok(None)
    })?;
    expect_error(kind, "too often", refusal, ("FlowLimitExceeded.QPSOverLimit", None, 429))
}

fn check_all(kind: SdkKind, backend: Backend) -> Result<()> {
    let _turn = MachineLock::shared()?;
    let pages = PageServer::start()?;
    let config = ServiceConfig {
        backend,
        top_level_toml: OTHER_APPLICATION_TOML.to_owned(),
        application_toml: "max_casts = 2".to_owned(),
        ..ServiceConfig::default()
    };
    let service = ServiceProcess::start(PAGECAST, &config)?;
    let Some(mut sdk) = kind.start(&service)? else { return Ok(()) };
    check_errors(kind, &mut sdk)?;
    check_lifecycle(kind, &mut sdk, &pages.url("counter.html?name=页&tags=<a>+b"))?;
    check_rate_limit(kind, &mut sdk)
}

#[test]
fn volcengine_for_python() -> Result<()> {
    check_all(Base, Backend::Sqlite)
}

#[test]
fn volcengine_core_for_python() -> Result<()> {
    check_all(Core, Backend::Postgres)
}

#[test]
fn volcengine_for_node() -> Result<()> {
    check_all(Node, Backend::Postgres)
}

#[test]
fn volcengine_for_go() -> Result<()> {
    check_all(Go, Backend::Sqlite)
}

/// With `strict_repeat`, version 2020-12-01 refuses a repeated start, as in the vendor's older list of
/// errors.
#[test]
fn a_task_that_is_repeated_can_be_refused_by_the_first_version() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let pages = PageServer::start()?;
    let config = ServiceConfig {
        backend: Backend::Postgres,
        top_level_toml: "[volcengine]\nreject_running_task = true".to_owned(),
        ..ServiceConfig::default()
    };
    let service = ServiceProcess::start(PAGECAST, &config)?;
    let (task, page) = (task_params("once"), pages.url("counter.html"));
    let mut first = true;
    for kind in [Base, Core, Node, Go] {
        let Some(mut sdk) = kind.start(&service)? else { continue };
        if std::mem::take(&mut first) {
            ensure!(
                kind.expect_result(&sdk.call(&start_step(VERSIONS[0], &task, &page))?)? == "ok",
                "it was not started"
            );
        }
        let refusal = kind.parse_error(&sdk.call(&start_step(VERSIONS[0], &task, &page))?, "POST")?;
        expect_error(kind, "again", refusal, ("InvalidParameter.TaskAlreadyExists", None, 400))?;
        let again = sdk.call(&start_step(VERSIONS[1], &task, &page))?;
        ensure!(kind.expect_result(&again)? == ALREADY_STARTED, "{again}");
    }
    ensure!(
        service.log().contains("pagecast") && !service.log().contains(ACCESS_KEY.1),
        "a secret was logged"
    );
    Ok(())
}
