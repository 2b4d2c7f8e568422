//! `pagecast demo`: shows the demo page live in a room through Volcengine's API, and records it through
//! Tencent's, with a temporary service.

mod servers;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use pagecast_core::spec::{NetworkPolicy, NetworkRule, Secret};
use pagecast_media::contact_sheet;
use pagecast_server::app::{AccessKey, Application, CallbackReceiver, Callbacks, Settings, StorageDefaults};
use pagecast_server::config::{self, Config};
use serde_json::{Value, json};

use crate::call::{Client, Credentials};
use crate::error::CommandError;
use crate::serve::{RunningService, build_runtime};
use crate::{cli, console};
use servers::{PageServer, WebhookReceiver};

/// Stills on the contact sheet.
const CONTACT_SHEET_FRAMES: u32 = 9;
/// Longest time for a step of the demo: a slow machine may need half of it to start both browsers.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);
const APP_ID: &str = "demo";
const SDK_APP_ID: u64 = 1_400_000_000;
const ROOM_ID: &str = "classroom";
const TASK_ID: &str = "task-1";

pub(crate) fn run(args: &cli::DemoArgs) -> Result<ExitCode, CommandError> {
    let scratch = ScratchDir::new()?;
    let page = PageServer::start().context("cannot serve the demo page on 127.0.0.1")?;
    let receiver = WebhookReceiver::start().context("cannot receive callbacks on 127.0.0.1")?;
    let config = service_config(&scratch.0, &page, &receiver)?;
    let credentials = demo_credentials(&config);
    let runtime = build_runtime()?;
    let recorded = runtime.block_on(async {
        let running = RunningService::start(config).await?;
        console::print_message(&format!("the service of the demo listens on {}", running.url()));
        let client = Client::new(running.url(), credentials);
        let recorded = run_casts(&client, &running, args, &page, &receiver, &scratch.0).await;
        running.stop().await;
        recorded
    })?;
    let recording = args.folder.join("demo.mp4");
    std::fs::copy(&recorded, &recording).with_context(|| format!("cannot write {}", recording.display()))?;
    let sheet = args.folder.join("demo.png");
    contact_sheet::write(&recording, &sheet, CONTACT_SHEET_FRAMES)
        .context("cannot create the contact sheet")?;
    let megabytes = std::fs::metadata(&recording).map_or(0.0, |m| m.len() as f64 / 1e6);
    console::print_message(&format!(
        "{}  {megabytes:.1} MB, recorded by StartWebRecord",
        recording.display()
    ));
    console::print_message(&format!("{}  {CONTACT_SHEET_FRAMES} stills of it", sheet.display()));
    Ok(ExitCode::SUCCESS)
}

/// Shows and records the page; returns the path of the recorded file.
async fn run_casts(
    client: &Client,
    running: &RunningService,
    args: &cli::DemoArgs,
    page: &PageServer,
    receiver: &WebhookReceiver,
    scratch: &Path,
) -> anyhow::Result<PathBuf> {
    let names = json!({ "AppId": APP_ID, "RoomId": ROOM_ID, "TaskId": TASK_ID });
    let mut webcast = names.clone();
    webcast["UserId"] = "webcast_demo".into();
    webcast["SourceURL"] = page.url().into();
    webcast["VideoSolutions"] = json!([{ "Width": 1280, "Height": 720, "FrameRate": 30 }]);
    call_action(client, "StartWebcast", &webcast).await?;
    let record = json!({
        "RecordUrl": page.url(),
        "SdkAppId": SDK_APP_ID,
        "StorageParams": { "CloudStorage": {
            "Vendor": 0, "Region": "ap-guangzhou", "Bucket": "demo-1250000000",
            "AccessKey": "demo", "SecretKey": "demo", "FileNamePrefix": ["record"],
        }},
        "WebRecordVideoParams": { "Width": 1280, "Height": 720, "Format": "mp4" },
    });
    let answer = call_action(client, "StartWebRecord", &record).await?;
    let task = answer["Response"]["TaskId"]
        .as_str()
        .context("no TaskId in the answer of StartWebRecord")?
        .to_owned();
    if let Some(rooms) = &running.service().rooms {
        let ids = pagecast_core::spec::RoomIds {
            app: APP_ID.into(),
            room: ROOM_ID.into(),
            user: "webcast_demo".into(),
            task: TASK_ID.into(),
        };
        console::print_message(&format!("viewer URL: {}", rooms.watch_url(&ids)));
    }
    receiver
        .wait_until("the page is live and recorded", STEP_TIMEOUT, |callbacks| {
            let is_live =
                |callback: &Value| callback["EventType"] == 801 || callback["EventType"] == "Webcast";
            callbacks.iter().filter(|callback| is_live(callback)).count() >= 2
        })
        .await?;
    console::print_message(&format!(
        "showing and recording the page for {} s …",
        args.duration.as_secs_f64()
    ));
    tokio::time::sleep(args.duration).await;
    call_action(client, "StopWebcast", &names).await?;
    call_action(client, "StopWebRecord", &json!({ "TaskId": task })).await?;
    let is_stored = |callbacks: &[Value]| callbacks.iter().any(|callback| callback["EventType"] == 310);
    let callbacks = receiver.wait_until("the recording is stored", STEP_TIMEOUT, is_stored).await?;
    console::print_message("callbacks received:");
    callbacks.iter().for_each(|callback| console::print_message(&format!("  {callback}")));
    let folder = scratch.join("buckets/demo-1250000000/record").join(&task);
    let files =
        std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?.flatten();
    let recorded = files.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "mp4"));
    recorded.context("no MP4 was recorded")
}

/// Calls an action and prints its answer.
async fn call_action(client: &Client, action: &str, body: &Value) -> anyhow::Result<Value> {
    let answer = client.call_async(action, body).await?;
    if !answer.succeeded {
        bail!("{action} was refused: {}", answer.body);
    }
    console::print_message(&format!("{action:<14} → {}", answer.body));
    Ok(answer.body)
}

/// Returns the configuration of the demo's service: on free ports, with an application that may show a page
/// of this machine.
fn service_config(data: &Path, page: &PageServer, receiver: &WebhookReceiver) -> anyhow::Result<Config> {
    let free_port = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let callback_receiver = |dialect: &str| -> anyhow::Result<CallbackReceiver> {
        Ok(CallbackReceiver {
            url: format!("{}/{dialect}", receiver.url()).parse()?,
            secret: Some(Secret::new("callbacksofthedemo")),
            extra_retry_s: 0,
            noce: false,
        })
    };
    let allow = [page.address(), receiver.address()].map(|address| NetworkRule::parse(&address.to_string()));
    let application = Application {
        keys: vec![AccessKey {
            id: "AKDEMO".into(),
            secret: Secret::new("secret-of-the-demo"),
            disabled: false,
        }],
        settings: Settings {
            callbacks: Callbacks {
                volcengine: Some(callback_receiver("volcengine")?),
                tencent: Some(callback_receiver("tencent")?),
                native: None,
            },
            storage: StorageDefaults {
                buckets_dir: Some(data.join("buckets")),
                ..StorageDefaults::default()
            },
            network: NetworkPolicy {
                allow: allow.into_iter().collect::<Result<_, _>>()?,
                ..NetworkPolicy::default()
            },
            app_id: Some(APP_ID.into()),
            sdk_app_id: Some(SDK_APP_ID),
            ..Settings::default()
        },
        ..Application::new(APP_ID)
    };
    Ok(Config {
        listen: free_port,
        data: data.to_owned(),
        // Both casts must start at once, however small the machine.
        casts: config::Casts { cpu_share: 16.0, ..config::Casts::default() },
        applications: vec![application],
        ..Config::default()
    })
}

fn demo_credentials(config: &Config) -> Credentials {
    let key = config.applications.first().and_then(|app| app.keys.first()).cloned();
    key.map(|key| Credentials { access_key: key.id, secret_key: key.secret, ..Credentials::default() })
        .unwrap_or_default()
}

/// The demo's temporary folder, removed when dropped.
struct ScratchDir(PathBuf);

impl ScratchDir {
    fn new() -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(format!("pagecast-demo-{}", std::process::id()));
        std::fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        // A leftover in the system's temporary folder is no reason to fail.
        let _leftover = std::fs::remove_dir_all(&self.0);
    }
}
