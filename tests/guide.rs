//! `docs/guides/service.md` is true: its configurations are sound, its code verifies what is sent, and what
//! it names exists.

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

/// What the guide's code is asked: each callback as it came, with other digits, and with another secret.
const VERIFY_SCRIPT: &str = r#"
import sys
class Headers(dict):
    def __getitem__(self, name):
        return super().__getitem__(name.lower())
good = 0
for told in json.load(sys.stdin):
    verify, headers, body = globals()[told["kind"]], Headers(told["headers"]), told["body"].encode()
    assert isinstance(verify(headers, body, told["secret"]), dict)
    for wrong in [(body.replace(b"1", b"7"), told["secret"]), (body, told["secret"] + "x")]:
        try:
            verify(headers, *wrong)
        except ValueError:
            good += 1
print(good)
"#;

fn read_file(path: &str) -> Result<String> {
    Ok(fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))?)
}

fn service_guide() -> Result<String> {
    read_file("docs/guides/service.md")
}

/// What stands in fences of this language.
fn code_blocks<'a>(guide: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("\n```{language}\n");
    guide.split(fence.as_str()).skip(1).filter_map(|rest| rest.split("\n```").next()).collect()
}

#[test]
fn its_configurations_are_sound() -> Result<()> {
    let (guide, scratch) = (service_guide()?, ScratchDir::new()?);
    let examples = code_blocks(&guide, "toml");
    // That in a container faces the network without TLS, and the service says so.
    let want = [
        "the configuration is sound\n",
        "the configuration is sound\n",
        "listen: others can reach it and nothing is encrypted: set tls, or put a proxy that has it in front\n\
         the configuration is sound\n",
    ];
    ensure!(examples.len() == want.len(), "{examples:#?}");
    for (example, want) in examples.into_iter().zip(want) {
        let file = scratch.join("pagecast.toml");
        fs::write(&file, example)?;
        let mut command = program(PAGECAST);
        command.args(["serve", "--check-config", "--config"]).arg(&file);
        for name in ["ADMIN_TOKEN", "ROOMS_SECRET", "SHOP_SECRET", "SHOP_TOKEN", "SHOP_CALLBACK_SECRET"] {
            let unlike: String = name.chars().rev().filter(char::is_ascii_alphabetic).collect();
            command.env(name, format!("{unlike}0123456789"));
        }
        let said = run_for_output(&mut command).with_context(|| example.to_owned())?;
        let said = String::from_utf8(said.stdout)?;
        ensure!(said == want, "{said}\n{example}");
    }
    Ok(())
}

#[test]
fn its_code_verifies_what_is_sent() -> Result<()> {
    let receiver = WebhookReceiver::start()?;
    // There is never room for a cast, so that each is told about without a browser.
    let full = ("PAGECAST__CASTS__SPARE_MEMORY_MIB", "1000000".to_owned());
    let setup = ServiceConfig {
        callback_url: Some(receiver.url("")),
        environment: vec![full],
        ..ServiceConfig::default()
    };
    let mut service = ServiceProcess::start(PAGECAST, &setup)?;
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
    let storage = json!({ "Vendor": 0, "Region": "ap-guangzhou", "Bucket": "rec-125", "AccessKey": "a", "SecretKey": "s" });
    let start =
        json!({ "RecordUrl": page, "SdkAppId": SDK_APP_ID, "StorageParams": { "CloudStorage": storage } });
    let answer = done(service.call("StartWebRecord", &start)?)?;
    done(service.call("StopWebRecord", &json!({ "TaskId": answer["Response"]["TaskId"] }))?)?;
    let cast = service.rest("POST", "/v1/casts", Some(&json!({ "url": page, "recording": {} })))?;
    ensure!(cast.status == 201, "{}", cast.text());
    let id = cast.json()?["id"].as_str().context("no id")?.to_owned();
    ensure!(service.rest("POST", &format!("/v1/casts/{id}/stop"), None)?.status < 300, "it is not stopped");
    let told = receiver.wait_until("all are over", TIMEOUT, |told: &[ReceivedRequest]| {
        ["/volcengine", "/tencent", "/native"].iter().all(|path| told.iter().any(|told| told.path == *path))
    })?;
    service.stop(TIMEOUT)?;

    let asked = told.iter().map(|told| {
        let kind = match told.path.as_str() {
            "/native" => "pagecast",
            other => other.trim_start_matches('/'),
        };
        let headers: serde_json::Map<String, Value> =
            told.headers.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        let body = String::from_utf8_lossy(&told.body);
        json!({ "kind": kind, "headers": headers, "body": body, "secret": CALLBACK_SECRET })
    });
    let asked = Value::Array(asked.collect()).to_string();
    let guide = service_guide()?;
    let [verify] = code_blocks(&guide, "python")[..] else { anyhow::bail!("not one piece of Python") };
    let mut python = program("python3");
    python.args(["-c", &format!("{verify}\n{VERIFY_SCRIPT}")]);
    let mut python = python
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| install_hint("python3"))?;
    python.stdin.take().context("no pipe")?.write_all(asked.as_bytes())?;
    let output = python.wait_with_output()?;
    let refused = String::from_utf8(output.stdout)?;
    ensure!(
        output.status.success() && refused.trim() == (2 * told.len()).to_string(),
        "{refused}, {told:#?}"
    );
    Ok(())
}

/// Words in a text that begin like this, as far as these characters go.
fn names_with_prefix(text: &str, start: &str, of: impl Fn(char) -> bool + Copy) -> BTreeSet<String> {
    let found = text.match_indices(start).map(|(at, _)| {
        let end = text[at..].find(|c: char| !of(c)).map_or(text.len(), |len| at + len);
        text[at..end].to_owned()
    });
    found.collect()
}

#[test]
fn what_it_names_exists() -> Result<()> {
    let guide = service_guide()?;
    let metrics = names_with_prefix(&guide, "pagecast_", |c| c.is_ascii_lowercase() || c == '_');
    ensure!(metrics.len() >= 6, "{metrics:?}");
    let reference = read_file("docs/reference/metrics.md")?;
    // `pagecast_server` and the like are crates, in a filter of the log.
    for name in metrics.iter().filter(|name| *name != "pagecast_server") {
        ensure!(reference.contains(&format!("| `{name}` |")), "{name} is no metric");
    }
    let api: Value = serde_json::from_str(&read_file("docs/reference/openapi.json")?)?;
    let in_words = |c: char| c.is_ascii_alphanumeric() || "/{}_-.".contains(c);
    let paths = names_with_prefix(&guide, "/v1/", in_words);
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
            // A key may end a sentence.
            let key = key.trim_end_matches('.').trim_matches('`').trim_start_matches(table).trim_matches('.');
            ensure!(config.contains(&format!("| `{key}` |")), "{table}.{key} cannot be set");
        }
    }
    Ok(())
}
