//! The REST API conforms to its OpenAPI description: schemathesis sends requests that the description allows,
//! and requests that it does not.
//!
//! The service is on PostgreSQL, which refuses values that SQLite takes, such as text with a NUL. What comes
//! before the database is the same for both.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::command::{program, run_for_output};
use pagecast_testkit::service::{ADMIN_TOKEN, REST_TOKEN};
use pagecast_testkit::{Backend, ScratchDir, ServiceConfig, ServiceProcess};
use serde_json::{Value, json};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
/// Checks of each response. `positive_data_acceptance` is not among them: the description cannot express
/// which addresses exist, nor that integers are written without a point.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
    response_headers_conformance,response_schema_conformance,negative_data_rejection,\
    missing_required_header,unsupported_method,ignored_auth";
/// Generated examples per operation: enough for all branches of the schemas, within a minute.
const MAX_EXAMPLES: u32 = 20;
/// Least number of cases; with fewer, parts of the API were not tested.
const MIN_CASES: u64 = 500;

static INSTALL_LOCK: Mutex<()> = Mutex::new(());

fn install() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let _one_at_a_time = INSTALL_LOCK.lock().map_err(|_| anyhow::anyhow!("an installation failed"))?;
    run_for_output(&mut program(root.join("tests/third-party/schemathesis/install")))
        .context("cannot install schemathesis")?;
    Ok(root.join("target/third-party/schemathesis/python/bin/schemathesis"))
}

/// Tests all operations below `path` with this token; `values` are for path parameters.
fn verify_conformance(service: &ServiceProcess, path: &str, token: &str, values: &Value) -> Result<()> {
    let schemathesis = install()?;
    let scratch = ScratchDir::new()?;
    // A JSON string is a valid TOML string.
    let values: String = values
        .as_object()
        .context("values")?
        .iter()
        .fold(String::new(), |all, (name, value)| format!("{all}\"path.{name}\" = {value}\n"));
    let config = format!(
        "seed = 1\n[generation]\nmax-examples = {MAX_EXAMPLES}\ndatabase = \"none\"\n\
         [phases.stateful]\nenabled = false\n[parameters]\n{values}"
    );
    fs::write(scratch.join("schemathesis.toml"), config)?;
    let report = scratch.join("report.xml");
    let mut command = program(schemathesis);
    command.current_dir(scratch.path()).env("HOME", scratch.path());
    for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env_remove(name);
    }
    command.args(["--no-color", "--config-file", "schemathesis.toml", "run"]);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/openapi.json"));
    command.args(["--url", &service.url(""), "--header", &format!("Authorization: Bearer {token}")]);
    command.args(["--include-path-regex", &format!("^{path}"), "--checks", CHECKS, "--continue-on-failure"]);
    command.args(["--report", "junit", "--report-junit-path"]).arg(&report);
    let output = command.output().context("cannot run schemathesis")?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    let cases = stdout.lines().find_map(|line| line.trim().split_once(" generated")?.0.parse::<u64>().ok());
    ensure!(cases.is_some_and(|cases| cases >= MIN_CASES), "{cases:?} cases: {stdout}");
    Ok(())
}

fn start_service() -> Result<ServiceProcess> {
    let environment = vec![
        // No rate limit, which other tests check.
        ("PAGECAST__LIMITS__REQUESTS_PER_S", "1000000".to_owned()),
        // Without a browser, a check of a page is answered at once.
        ("PAGECAST_CHROMIUM", "/nowhere/chromium".to_owned()),
    ];
    let casts = "max_queue_timeout_s = 86400".to_owned();
    let config = ServiceConfig {
        backend: Backend::Postgres,
        no_capacity: true,
        casts_toml: casts,
        environment,
        ..ServiceConfig::default()
    };
    ServiceProcess::start(PAGECAST, &config)
}

#[test]
fn casts_conform_to_the_description() -> Result<()> {
    let service = start_service()?;
    let request = json!({"url": "http://127.0.0.1:9/", "recording": {}, "queue_timeout_s": 86_400});
    let made = service.rest("POST", "/v1/casts", Some(&request))?;
    ensure!(made.status == 201, "{made:?}");
    let cast: Value = serde_json::from_slice(&made.body)?;
    verify_conformance(&service, "/v1/casts", REST_TOKEN, &json!({"id": cast["id"], "name": "a.jpg"}))
}

#[test]
fn applications_and_nodes_conform_to_the_description() -> Result<()> {
    let service = start_service()?;
    // The name of the node is not among the values: the service would drain and end.
    verify_conformance(&service, "/v1/(applications|nodes)", ADMIN_TOKEN, &json!({}))
}
