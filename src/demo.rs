//! `pagecast demo`: the page that comes with Pagecast, live in a room by Volcengine's API and recorded by Tencent's, from a service
//! that is there for the demo alone.

mod serve;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use pagecast_core::spec::{Network, Rule, Secret};
use pagecast_media::sheet;
use pagecast_server::app::{AccessKey, Application, Callbacks, Receiver, StorageDefaults};
use pagecast_server::config::{self, Config};
use serde_json::{Value, json};

use crate::call::{Client, Credentials};
use crate::failure::Failure;
use crate::serve::{Running, runtime};
use crate::{cli, screen};
use serve::{Inbox, Page};

/// Stills on the contact sheet.
const STILLS: u32 = 9;
/// How long the service may take for anything.
const PATIENCE: Duration = Duration::from_secs(60);
const APP: &str = "demo";
const SDK_APP: u64 = 1_400_000_000;
const ROOM: &str = "classroom";
const TASK: &str = "task-1";

pub(crate) fn run(args: &cli::Demo) -> Result<ExitCode, Failure> {
    let scratch = Scratch::new()?;
    let page = Page::serve().context("cannot serve the demo page on 127.0.0.1")?;
    let inbox = Inbox::open().context("cannot receive callbacks on 127.0.0.1")?;
    let config = configuration(&scratch.0, &page, &inbox)?;
    let credentials = credentials(&config);
    let runtime = runtime()?;
    let recorded = runtime.block_on(async {
        let running = Running::start(config).await?;
        screen::say(&format!("a service for the demo listens on {}", running.url()));
        let client = Client::new(&running.url(), credentials);
        let recorded = show(&client, &running, args, &page, &inbox, &scratch.0).await;
        running.stop().await;
        recorded
    })?;
    let recording = args.folder.join("demo.mp4");
    std::fs::copy(&recorded, &recording).with_context(|| format!("cannot write {}", recording.display()))?;
    let sheet = args.folder.join("demo.png");
    sheet::write(&recording, &sheet, STILLS).context("cannot make the contact sheet")?;
    let megabytes = std::fs::metadata(&recording).map_or(0.0, |m| m.len() as f64 / 1e6);
    screen::say(&format!("{}  {megabytes:.1} MB, what StartWebRecord recorded", recording.display()));
    screen::say(&format!("{}  {STILLS} stills of it, to look at", sheet.display()));
    Ok(ExitCode::SUCCESS)
}

/// Shows and records the page; the file that was recorded.
async fn show(
    client: &Client,
    running: &Running,
    args: &cli::Demo,
    page: &Page,
    inbox: &Inbox,
    scratch: &Path,
) -> anyhow::Result<PathBuf> {
    let names = json!({ "AppId": APP, "RoomId": ROOM, "TaskId": TASK });
    let mut webcast = names.clone();
    webcast["UserId"] = "webcast_demo".into();
    webcast["SourceURL"] = page.url().into();
    webcast["VideoSolutions"] = json!([{ "Width": 1280, "Height": 720, "FrameRate": 30 }]);
    ask(client, "StartWebcast", &webcast).await?;
    let record = json!({
        "RecordUrl": page.url(),
        "SdkAppId": SDK_APP,
        "StorageParams": { "CloudStorage": {
            "Vendor": 0, "Region": "ap-guangzhou", "Bucket": "demo-1250000000",
            "AccessKey": "demo", "SecretKey": "demo", "FileNamePrefix": ["record"],
        }},
        "WebRecordVideoParams": { "Width": 1280, "Height": 720, "Format": "mp4" },
    });
    let answer = ask(client, "StartWebRecord", &record).await?;
    let task = answer["Response"]["TaskId"].as_str().context("StartWebRecord told no TaskId")?.to_owned();
    if let Some(rooms) = &running.service().rooms {
        let ids = pagecast_core::spec::RoomIds {
            app: APP.into(),
            room: ROOM.into(),
            user: "webcast_demo".into(),
            task: TASK.into(),
        };
        screen::say(&format!("watch it at {}", rooms.watch(&ids)));
    }
    inbox
        .wait("the page is live and recorded", PATIENCE, |told| {
            let live = |told: &Value| told["EventType"] == 801 || told["EventType"] == "Webcast";
            told.iter().filter(|told| live(told)).count() >= 2
        })
        .await?;
    screen::say(&format!("showing and recording the page for {} s …", args.duration.as_secs_f64()));
    tokio::time::sleep(args.duration).await;
    ask(client, "StopWebcast", &names).await?;
    ask(client, "StopWebRecord", &json!({ "TaskId": task })).await?;
    let stored = |told: &[Value]| told.iter().any(|told| told["EventType"] == 310);
    let told = inbox.wait("the recording is stored", PATIENCE, stored).await?;
    screen::say("callbacks that came:");
    told.iter().for_each(|told| screen::say(&format!("  {told}")));
    let folder = scratch.join("buckets/demo-1250000000/record").join(&task);
    let files =
        std::fs::read_dir(&folder).with_context(|| format!("nothing is in {}", folder.display()))?.flatten();
    let recorded = files.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "mp4"));
    recorded.context("no MP4 was recorded")
}

/// Calls an action, and says so.
async fn ask(client: &Client, action: &str, body: &Value) -> anyhow::Result<Value> {
    let answer = client.ask(action, body).await?;
    if !answer.succeeded {
        bail!("{action} was refused: {}", answer.body);
    }
    screen::say(&format!("{action:<14} → {}", answer.body));
    Ok(answer.body)
}

/// A service for the demo: on any ports, with an application that may show a page of this machine.
fn configuration(data: &Path, page: &Page, inbox: &Inbox) -> anyhow::Result<Config> {
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let receiver = |dialect: &str| -> anyhow::Result<Receiver> {
        Ok(Receiver {
            url: format!("{}/{dialect}", inbox.url()).parse()?,
            secret: Some(Secret::new("callbacksofthedemo")),
            retry_s: 0,
            noce: false,
        })
    };
    let allow = [page.address(), inbox.address()].map(|address| Rule::parse(&address.to_string()));
    let application = Application {
        keys: vec![AccessKey {
            id: "AKDEMO".into(),
            secret: Secret::new("secret-of-the-demo"),
            disabled: false,
        }],
        callbacks: Callbacks {
            volcengine: Some(receiver("volcengine")?),
            tencent: Some(receiver("tencent")?),
            native: None,
        },
        storage: StorageDefaults { buckets: Some(data.join("buckets")), ..StorageDefaults::default() },
        network: Network { allow: allow.into_iter().collect::<Result<_, _>>()?, ..Network::default() },
        app_id: Some(APP.into()),
        sdk_app_id: Some(SDK_APP),
        ..Application::new(APP)
    };
    Ok(Config {
        listen: any,
        data: data.to_owned(),
        rooms: config::Rooms { listen: any, ..config::Rooms::default() },
        // Both casts are to begin at once, however small the machine.
        casts: config::Casts { cpu_share: 16.0, ..config::Casts::default() },
        applications: vec![application],
        ..Config::default()
    })
}

fn credentials(config: &Config) -> Credentials {
    let key = config.applications.first().and_then(|app| app.keys.first()).cloned();
    key.map(|key| Credentials { access_key: key.id, secret_key: key.secret, ..Credentials::default() })
        .unwrap_or_default()
}

/// A folder for the demo, gone when it ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(format!("pagecast-demo-{}", std::process::id()));
        std::fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A folder that stays in the system's folder for such is no reason to fail.
        let _untidy = std::fs::remove_dir_all(&self.0);
    }
}
