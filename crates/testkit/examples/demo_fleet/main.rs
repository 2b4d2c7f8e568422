//! `make demo-fleet`: three nodes on one PostgreSQL database show a page in a room, through Volcengine's API,
//! and record it, through Tencent's. The nodes that run these casts are killed. Prints how long the room had
//! no picture and how much is missing in the recording, which is written to `demo-fleet.mp4`, with stills in
//! `demo-fleet.png`.
#![expect(clippy::print_stderr, reason = "a command-line program prints")]

mod recording;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use pagecast_testkit::fleet::{BUCKET, S3_KEYS};
use pagecast_testkit::room_viewer::{ShownFrame, clock_ms};
use pagecast_testkit::service::{APP_ID, SDK_APP_ID};
use pagecast_testkit::{FleetConfig, PageResponse, PageServer, RoomViewer, TestFleet};
use serde_json::{Value, json};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

const NODES: usize = 3;
/// Longest time for a step: a slow machine may need half of it to start browsers.
const STEP_TIMEOUT: Duration = Duration::from_secs(90);
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How long the page is shown and recorded before each death of a node, and after the last one.
const SHOWN_TIME: Duration = Duration::from_secs(8);

/// One of the two casts: the API that created it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cast {
    Webcast,
    Recording,
}

impl Cast {
    const ALL: [Self; 2] = [Self::Webcast, Self::Recording];

    fn api(self) -> &'static str {
        match self {
            Self::Webcast => "volcengine",
            Self::Recording => "tencent",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Webcast => "the webcast",
            Self::Recording => "the recording",
        }
    }
}

/// The death of a node.
struct Death {
    node: usize,
    at_ms: f64,
}

/// A fleet with both casts. Whatever happens, all its processes end when it is dropped.
struct Demo {
    fleet: TestFleet,
    page: PageServer,
    interrupted: Arc<AtomicBool>,
    /// Task of the recording.
    task: String,
    /// A node that runs no cast at first, and is not killed.
    spectator: usize,
}

fn main() -> Result<()> {
    let interrupted = Arc::<AtomicBool>::default();
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    let mut demo = Demo::start(interrupted)?;
    demo.start_casts()?;
    let deaths = demo.show_and_kill()?;
    demo.stop_casts()?;
    demo.write_files(&deaths)
}

impl Demo {
    fn start(interrupted: Arc<AtomicBool>) -> Result<Self> {
        let program = std::env::current_exe()?.with_file_name("../pagecast");
        let program = program.canonicalize().with_context(|| format!("no {}", program.display()))?;
        eprintln!("starting PostgreSQL, an S3 server and {NODES} nodes …");
        let config = FleetConfig { has_store: true, ..FleetConfig::of_nodes(NODES) };
        let fleet = TestFleet::start(&program.to_string_lossy(), &config)?;
        for (number, node) in fleet.nodes.iter().enumerate() {
            eprintln!("  n{number} listens on {}", node.url(""));
        }
        Ok(Self { fleet, page: serve_page()?, interrupted, task: String::new(), spectator: 0 })
    }

    fn pause(&self, duration: Duration) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < duration {
            std::thread::sleep(POLL_INTERVAL);
            ensure!(!self.interrupted.load(Ordering::Relaxed), "interrupted");
        }
        Ok(())
    }

    /// Waits until a check returns a value.
    fn wait_for<T>(&self, what: &str, mut check: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let began = Instant::now();
        loop {
            if let Some(value) = check()? {
                return Ok(value);
            }
            ensure!(began.elapsed() < STEP_TIMEOUT, "not within {} s: {what}", STEP_TIMEOUT.as_secs());
            self.pause(POLL_INTERVAL)?;
        }
    }

    /// Calls an action of a cloud's API through a node, and prints its answer.
    fn call(&self, node: usize, action: &str, body: &Value) -> Result<Value> {
        let (succeeded, answer) = self.fleet.nodes[node].call(action, body)?;
        ensure!(succeeded, "{action} was refused: {answer}");
        eprintln!("{action:<14} through n{node} → {answer}");
        Ok(answer)
    }

    fn start_casts(&mut self) -> Result<()> {
        let url = self.page.url("demo/fleet.html?absolute");
        let webcast = json!({
            "AppId": APP_ID, "RoomId": "classroom", "TaskId": "task-1", "UserId": "webcast_demo",
            "SourceURL": url, "VideoSolutions": [{ "Width": 640, "Height": 360, "FrameRate": 15 }],
        });
        self.call(0, "StartWebcast", &webcast)?;
        let record = json!({
            "RecordUrl": url, "SdkAppId": SDK_APP_ID,
            "StorageParams": { "CloudStorage": {
                "Vendor": 0, "Region": "ap-guangzhou", "Bucket": BUCKET,
                "AccessKey": S3_KEYS.0, "SecretKey": S3_KEYS.1, "FileNamePrefix": ["demo"],
            }},
            "WebRecordVideoParams": { "Width": 1280, "Height": 720, "Format": "mp4" },
        });
        let answer = self.call(1, "StartWebRecord", &record)?;
        self.task = answer["Response"]["TaskId"].as_str().context("no TaskId in the answer")?.to_owned();
        let mut owners = Vec::new();
        for cast in Cast::ALL {
            owners.push(self.wait_for("both casts are live", || {
                let described = self.describe(cast)?;
                Ok(if described["state"] == "live" { owner_of(&described) } else { None })
            })?);
            eprintln!("n{} runs {}", owners[owners.len() - 1], cast.title());
        }
        self.spectator = (0..NODES).find(|node| !owners.contains(node)).context("every node runs a cast")?;
        Ok(())
    }

    /// What the REST API of a node that is not killed says of a cast.
    fn describe(&self, cast: Cast) -> Result<Value> {
        let node = &self.fleet.nodes[self.spectator];
        let list = node.rest("GET", "/v1/casts", None)?.json()?;
        let mut casts = list["casts"].as_array().into_iter().flatten();
        let found = casts.find(|listed| listed["api"] == cast.api()).context("the cast is not listed")?;
        let id = found["id"].as_str().context("the cast has no id")?;
        node.rest("GET", &format!("/v1/casts/{id}"), None)?.json()
    }

    fn wait_for_owner(&self, cast: Cast, is_owner: impl Fn(usize) -> bool) -> Result<usize> {
        self.wait_for("a node runs the cast", || {
            Ok(owner_of(&self.describe(cast)?).filter(|node| is_owner(*node)))
        })
    }

    /// Shows the page in the room, and kills the nodes that run the casts, one after the other.
    fn show_and_kill(&mut self) -> Result<Vec<Death>> {
        let webcast = self.describe(Cast::Webcast)?;
        let url = webcast["room"]["watch_url"].as_str().context("the room has no address")?;
        eprintln!("viewer URL: {url} (through n{}, which is not killed)", self.spectator);
        let mut viewer = RoomViewer::open(url)?;
        self.wait_for("the room shows the page", || Ok(viewer.frames()?.first().copied()))?;
        let mut deaths: Vec<Death> = Vec::new();
        let owners = Cast::ALL.map(|cast| self.wait_for_owner(cast, |_| true));
        for owner in owners {
            let owner = owner?;
            if deaths.iter().any(|death| death.node == owner) {
                continue;
            }
            eprintln!("showing and recording the page for {} s …", SHOWN_TIME.as_secs());
            self.pause(SHOWN_TIME)?;
            deaths.push(self.kill(owner, &mut viewer)?);
        }
        eprintln!("showing and recording the page for {} s …", SHOWN_TIME.as_secs());
        self.pause(SHOWN_TIME)?;
        Ok(deaths)
    }

    /// Kills a node, and waits until its casts run on others and the room has a picture.
    fn kill(&mut self, node: usize, viewer: &mut RoomViewer) -> Result<Death> {
        let mut lost = Vec::new();
        for cast in Cast::ALL {
            if self.wait_for_owner(cast, |_| true)? == node {
                lost.push(cast);
            }
        }
        let shown = viewer.frames()?.len();
        let at_ms = clock_ms();
        self.fleet.kill_node(node)?;
        let titles: Vec<&str> = lost.iter().map(|cast| cast.title()).collect();
        eprintln!("kill -9: n{node} with all its processes, and so {}", titles.join(" and "));
        for cast in &lost {
            let owner = self.wait_for_owner(*cast, |owner| owner != node)?;
            eprintln!("  {:.1} s later n{owner} takes over {}", (clock_ms() - at_ms) / 1e3, cast.title());
        }
        let taken_ms = clock_ms();
        let has_picture = self.wait_for("the room has a picture", || {
            let frames = &viewer.frames()?[shown.saturating_sub(1)..];
            let is_new = !lost.contains(&Cast::Webcast) || has_page_begun_anew(frames);
            let is_late = frames.last().is_some_and(|last| last.shown_ms > taken_ms);
            Ok((is_new && is_late).then_some(()))
        });
        if let Err(error) = has_picture {
            return Err(error.context(format!("the viewer's page says: {}", viewer.text()?)));
        }
        let frames = &viewer.frames()?[shown.saturating_sub(1)..];
        let gap_ms = |pair: &&[ShownFrame]| pair[1].shown_ms - pair[0].shown_ms;
        let gap = frames.windows(2).max_by(|a, b| gap_ms(a).total_cmp(&gap_ms(b)));
        let gap = gap.context("the room shows no pictures")?;
        eprintln!(
            "  the room had no picture for {:.1} s: after picture {} of the page came picture {}{}",
            gap_ms(&gap) / 1e3,
            gap[0].timecode.counter,
            gap[1].timecode.counter,
            if has_page_begun_anew(gap) { " of the page in another browser" } else { "" }
        );
        Ok(Death { node, at_ms })
    }

    /// Stops both casts by their APIs, waits until everything is stored, and prints the callbacks.
    fn stop_casts(&self) -> Result<()> {
        let names = json!({ "AppId": APP_ID, "RoomId": "classroom", "TaskId": "task-1" });
        self.call(self.spectator, "StopWebcast", &names)?;
        self.call(self.spectator, "StopWebRecord", &json!({ "TaskId": self.task }))?;
        self.wait_for("the recording is stored", || {
            let callbacks = self.fleet.callbacks.received();
            Ok(callbacks.iter().any(|callback| callback.json()["EventType"] == 310).then_some(()))
        })?;
        eprintln!("callbacks received:");
        self.fleet.callbacks.received().iter().for_each(|callback| eprintln!("  {}", callback.json()));
        Ok(())
    }

    /// Copies the recording to the current folder, and prints what is in it.
    fn write_files(&self, deaths: &[Death]) -> Result<()> {
        let objects = self.fleet.s3.objects(BUCKET)?;
        let names: Vec<&String> = objects.keys().collect();
        let [name] = names[..] else { bail!("there are {} recordings: {names:?}", names.len()) };
        let (file, sheet) = (Path::new("demo-fleet.mp4"), Path::new("demo-fleet.png"));
        let bytes = std::fs::copy(self.fleet.s3.object_path(BUCKET, name), file)
            .with_context(|| format!("cannot write {}", file.display()))?;
        let parts = recording::read_parts(file)?;
        eprintln!(
            "{}  {:.1} MB, {:.1} s: the only file in the bucket",
            file.display(),
            bytes as f64 / 1e6,
            parts.last().map_or(0.0, |part| part.end_s)
        );
        for pair in parts.windows(2) {
            let (last_ms, next_ms) = (pair[0].last.drawn_ms(clock_ms()), pair[1].first.drawn_ms(clock_ms()));
            let death = deaths.iter().rfind(|death| death.at_ms < next_ms).context("no node was killed")?;
            eprintln!(
                "  at {:.1} s, {:.1} s of the page are missing: from {:.1} s before the death of n{} to \
                 {:.1} s after it; after picture {} comes picture {}",
                pair[0].end_s,
                (next_ms - last_ms) / 1e3,
                (death.at_ms - last_ms) / 1e3,
                death.node,
                (next_ms - death.at_ms) / 1e3,
                pair[0].last.counter,
                pair[1].first.counter
            );
        }
        let stills = recording::write_contact_sheet(file, sheet, &parts)?;
        eprintln!(
            "{}  {stills} stills of it, the last and the first around the gap among them",
            sheet.display()
        );
        Ok(())
    }
}

/// Serves the demo page with a timecode in its corner.
fn serve_page() -> Result<PageServer> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo");
    let page = std::fs::read_to_string(folder.join("index.html")).context("cannot read the demo page")?;
    let script = "<script src=\"/timecode.js\"></script><script>eachFrame()</script>\n</body>";
    let page = PageResponse::Html(200, page.replace("</body>", script));
    Ok(PageServer::start()?.with_folder("/demo/", &folder).with_route("/demo/fleet.html", page))
}

/// Number of the node that runs a cast.
fn owner_of(cast: &Value) -> Option<usize> {
    cast["node"].as_str()?.strip_prefix('n')?.parse().ok()
}

fn has_page_begun_anew(frames: &[ShownFrame]) -> bool {
    frames.windows(2).any(|pair| pair[1].timecode.counter < pair[0].timecode.counter)
}
