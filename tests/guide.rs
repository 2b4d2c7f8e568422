//! Checks `docs/guides/service.md`: its configurations are valid, its code verifies callbacks, and the names
//! in it exist.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::command::{install_hint, program, run_for_output};
use pagecast_testkit::service::{APP_ID, CALLBACK_SECRET, SDK_APP_ID};
use pagecast_testkit::{ReceivedRequest, ScratchDir, ServiceConfig, ServiceProcess, WebhookReceiver};
use serde_json::{Value, json};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
const TIMEOUT: Duration = Duration::from_secs(60);

/// Runs the guide's code on each callback: as received, with changed digits, and with another secret.
const VERIFY_SCRIPT: &str = r#"
import sys
class Headers(dict):
    def __getitem__(self, name):
        return super().__getitem__(name.lower())
refused = 0
for callback in json.load(sys.stdin):
    verify, headers = globals()[callback["kind"]], Headers(callback["headers"])
    body = callback["body"].encode()
    assert isinstance(verify(headers, body, callback["secret"]), dict)
    for wrong in [(body.replace(b"1", b"7"), callback["secret"]), (body, callback["secret"] + "x")]:
        try:
            verify(headers, *wrong)
        except ValueError:
            refused += 1
print(refused)
"#;

fn read_file(path: &str) -> Result<String> {
    Ok(fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))?)
}

fn service_guide() -> Result<String> {
    read_file("docs/guides/service.md")
}

/// Code blocks of this language.
fn code_blocks<'a>(guide: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("\n```{language}\n");
    guide.split(fence.as_str()).skip(1).filter_map(|rest| rest.split("\n```").next()).collect()
}

#[test]
fn its_configurations_are_valid() -> Result<()> {
    let (guide, scratch) = (service_guide()?, ScratchDir::new()?);
    let examples = code_blocks(&guide, "toml");
    // The one for a container listens on the network without TLS, which is a warning.
    let expected = [
        "configuration valid\n",
        "configuration valid\n",
        "configuration valid\n",
        "listen: this address is reachable from other machines without encryption: set tls, or use a \
         reverse proxy with TLS\n\
         configuration valid\n",
    ];
    ensure!(examples.len() == expected.len(), "{examples:#?}");
    for (example, expected) in examples.into_iter().zip(expected) {
        let file = scratch.join("pagecast.toml");
        fs::write(&file, example)?;
        let mut command = program(PAGECAST);
        command.args(["serve", "--check-config", "--config"]).arg(&file);
        for name in [
            "ADMIN_TOKEN",
            "OIDC_SECRET",
            "ROOMS_SECRET",
            "SHOP_SECRET",
            "SHOP_TOKEN",
            "SHOP_CALLBACK_SECRET",
        ] {
            let secret: String = name.chars().rev().filter(char::is_ascii_alphabetic).collect();
            command.env(name, format!("{secret}0123456789"));
        }
        let output = run_for_output(&mut command).with_context(|| example.to_owned())?;
        let stdout = String::from_utf8(output.stdout)?;
        ensure!(stdout == expected, "{stdout}\n{example}");
    }
    Ok(())
}

#[test]
fn its_code_verifies_callbacks() -> Result<()> {
    let receiver = WebhookReceiver::start()?;
    // The service never has capacity, so that casts end without a browser.
    let no_capacity = ("PAGECAST__CASTS__RESERVED_MEMORY_MIB", "1000000".to_owned());
    let config = ServiceConfig {
        callback_url: Some(receiver.url("")),
        environment: vec![no_capacity],
        ..ServiceConfig::default()
    };
    let mut service = ServiceProcess::start(PAGECAST, &config)?;
    let done = |(done, answer): (bool, Value)| {
        ensure!(done, "{answer}");
        Ok(answer)
    };
    let page = "https://example.com/";
    let mut task = json!({ "AppId": APP_ID, "RoomId": "room", "TaskId": "task" });
    done(service.call("StopWebcast", &{
        let stop = task.clone();
        task["UserId"] = json!("webcast_task");
        task["SourceURL"] = json!(page);
        done(service.call("StartWebcast", &task)?)?;
        stop
    })?)?;
    let storage = json!({
        "Vendor": 0, "Region": "ap-guangzhou", "Bucket": "rec-125", "AccessKey": "a", "SecretKey": "s",
    });
    let start =
        json!({ "RecordUrl": page, "SdkAppId": SDK_APP_ID, "StorageParams": { "CloudStorage": storage } });
    let answer = done(service.call("StartWebRecord", &start)?)?;
    done(service.call("StopWebRecord", &json!({ "TaskId": answer["Response"]["TaskId"] }))?)?;
    let cast = service.rest("POST", "/v1/casts", Some(&json!({ "url": page, "recording": {} })))?;
    ensure!(cast.status == 201, "{}", cast.text());
    let id = cast.json()?["id"].as_str().context("no id")?.to_owned();
    ensure!(
        service.rest("POST", &format!("/v1/casts/{id}/stop"), None)?.status < 300,
        "the cast is not stopped"
    );
    let callbacks =
        receiver.wait_until("all casts have ended", TIMEOUT, |received: &[ReceivedRequest]| {
            ["/volcengine", "/tencent", "/native"].iter().all(|path| received.iter().any(|r| r.path == *path))
        })?;
    service.stop(TIMEOUT)?;

    let inputs = callbacks.iter().map(|callback| {
        let kind = match callback.path.as_str() {
            "/native" => "pagecast",
            other => other.trim_start_matches('/'),
        };
        let headers: serde_json::Map<String, Value> =
            callback.headers.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        let body = String::from_utf8_lossy(&callback.body);
        json!({ "kind": kind, "headers": headers, "body": body, "secret": CALLBACK_SECRET })
    });
    let inputs = Value::Array(inputs.collect()).to_string();
    let guide = service_guide()?;
    let [verify] = code_blocks(&guide, "python")[..] else {
        anyhow::bail!("the guide has not exactly one Python block")
    };
    let mut python = program("python3");
    python.args(["-c", &format!("{verify}\n{VERIFY_SCRIPT}")]);
    let mut python = python
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| install_hint("python3"))?;
    python.stdin.take().context("no pipe")?.write_all(inputs.as_bytes())?;
    let output = python.wait_with_output()?;
    let refused = String::from_utf8(output.stdout)?;
    ensure!(
        output.status.success() && refused.trim() == (2 * callbacks.len()).to_string(),
        "{refused} refused of {callbacks:#?}"
    );
    Ok(())
}

/// Words in a text that start with `start` and have characters for which `is_part` holds.
fn names_with_prefix(text: &str, start: &str, is_part: impl Fn(char) -> bool + Copy) -> BTreeSet<String> {
    let found = text.match_indices(start).map(|(at, _)| {
        let end = text[at..].find(|c: char| !is_part(c)).map_or(text.len(), |len| at + len);
        text[at..end].to_owned()
    });
    found.collect()
}

#[test]
fn names_in_it_exist() -> Result<()> {
    let guide = service_guide()?;
    let metrics = names_with_prefix(&guide, "pagecast_", |c| c.is_ascii_lowercase() || c == '_');
    ensure!(metrics.len() >= 6, "{metrics:?}");
    let reference = read_file("docs/reference/metrics.md")?;
    // `pagecast_server` is a crate, in a log filter.
    for name in metrics.iter().filter(|name| *name != "pagecast_server") {
        ensure!(reference.contains(&format!("| `{name}` |")), "{name} is not a metric");
    }
    let api: Value = serde_json::from_str(&read_file("docs/reference/openapi.json")?)?;
    let is_part = |c: char| c.is_ascii_alphanumeric() || "/{}_-.".contains(c);
    let paths = names_with_prefix(&guide, "/v1/", is_part);
    ensure!(paths.len() >= 4, "{paths:?}");
    for path in paths.iter().filter(|path| *path != "/v1/") {
        let path = path.replace("/school/", "/{name}/");
        ensure!(api["paths"].get(&path).is_some(), "the API has no {path}");
    }
    let config = read_file("docs/reference/config.md")?;
    for table in ["casts", "rooms", "network", "storage"] {
        let keys = names_with_prefix(&guide, &format!("`{table}."), |c| {
            c.is_ascii_alphanumeric() || "._`".contains(c)
        });
        ensure!(!keys.is_empty(), "no {table}");
        for key in keys {
            // A key may be the last word of a sentence.
            let key = key.trim_end_matches('.').trim_matches('`').trim_start_matches(table).trim_matches('.');
            ensure!(config.contains(&format!("| `{key}` |")), "{table}.{key} cannot be set");
        }
    }
    Ok(())
}
