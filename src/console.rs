//! What a person sees: one live line, and a summary.
#![expect(clippy::print_stderr, reason = "this is where the program speaks")]

mod terminal;

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::Path;

use pagecast_core::cast::{Event, HealthFault, Warning};
use pagecast_core::connection::State;
use pagecast_core::spec::Source;
use pagecast_worker::cast::{
    DeliveryState, DeliveryStatus, Progress, PushEvent, Report, RoomStatus, UploadReport,
};

use terminal::Field;

/// Moves to the beginning of the line and erases it, and what is left below of a line that was wrapped.
const ERASE_LINE: &str = "\r\x1b[J";

/// Whether standard error is a terminal that understands escape sequences.
pub(crate) fn stderr_is_terminal() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|name| name != "dumb")
}

/// A line for the person.
pub(crate) fn print_message(line: &str) {
    eprintln!("{line}");
}

/// A line of result, for pipes.
pub(crate) fn print_result(line: &str) {
    // Whoever reads has had enough.
    let _closed = writeln!(std::io::stdout(), "{line}");
}

/// The line that is rewritten while a cast runs.
pub(crate) struct StatusLine {
    last_progress: Progress,
    is_displayed: bool,
    enabled: bool,
    /// What was told last of storing the recording.
    last_upload_message: Option<String>,
    /// Since when storage fails, in ms since 1970, once that is told.
    outage_since_unix_ms: Option<i64>,
    /// What was told last of each push: its state, and what was wrong.
    pushes: BTreeMap<u32, (State, Option<String>)>,
    /// How the room gets on.
    room: Option<RoomStatus>,
    /// Counts those who watch the room.
    viewer_counter: Option<ViewerCounter>,
}

/// How many watch a room.
type ViewerCounter = Box<dyn Fn() -> Option<usize>>;

impl StatusLine {
    pub(crate) fn new(quiet: bool) -> Self {
        let enabled = !quiet && stderr_is_terminal();
        Self {
            last_progress: Progress::default(),
            is_displayed: false,
            enabled,
            last_upload_message: None,
            outage_since_unix_ms: None,
            pushes: BTreeMap::new(),
            room: None,
            viewer_counter: None,
        }
    }

    /// Shows how many watch, too.
    pub(crate) fn set_viewer_counter(&mut self, viewers: ViewerCounter) {
        self.viewer_counter = Some(viewers);
    }

    /// Shows how far the cast has come; not on a terminal, logs it every ten seconds.
    pub(crate) fn update(&mut self, now: &Progress) {
        let mut fields = progress_fields(&self.last_progress, now, self.room.is_some());
        if let Some(room) = &self.room {
            fields.extend(room_fields(room, self.viewer_counter.as_ref().and_then(|count| count())));
        }
        let ten_seconds = |p: &Progress| p.elapsed.as_millis() / 10_000;
        if self.enabled {
            // The cursor stays at the beginning: there it also is when the window gets narrower and the
            // terminal wraps the line, and what somebody else writes takes the line's place.
            eprint!("\r{}\x1b[J\r", terminal::fit(fields, terminal::columns()));
            let _unflushed = std::io::stderr().flush();
            self.is_displayed = true;
        } else if ten_seconds(now) > ten_seconds(&self.last_progress) {
            tracing::info!("{}", terminal::join(&fields));
        }
        self.last_progress = *now;
    }

    /// Tells what happened, on a line of its own.
    pub(crate) fn report_event(&mut self, event: Event) {
        let text = match event {
            Event::Reloaded(trouble) => format!("{}: it is loaded again", fault_description(trouble)),
            Event::Moved(trouble) => format!("{}: it gets a fresh browser", fault_description(trouble)),
            Event::Live => return tracing::info!("the page is live"),
            Event::Ended(_) => return,
        };
        self.warn(&text);
    }

    /// Tells what happened to a push, once, on a line of its own.
    pub(crate) fn report_push(&mut self, news: &PushEvent) {
        let said = (news.state, news.error.clone());
        let last = self.pushes.insert(news.id, said.clone());
        if last.as_ref() == Some(&said) {
            return;
        }
        let url = &news.url;
        let text = match (&news.error, news.state) {
            (Some(error), State::Connecting) => format!("push to {url}: {error}; trying again"),
            (Some(error), State::Recovering) => {
                format!("push to {url} is interrupted: {error}; trying again")
            }
            (error, State::Failed) => {
                format!("push to {url} is given up: {}", error.as_deref().unwrap_or("no connection"))
            }
            (_, State::Running) if last.is_some_and(|(state, _)| state == State::Recovering) => {
                format!("push to {url} is back")
            }
            (_, State::Running) => return tracing::info!(%url, "pushing"),
            _ => return,
        };
        self.warn(&text);
    }

    /// Tells what happened to the room, once, on a line of its own.
    pub(crate) fn report_room(&mut self, status: &RoomStatus) {
        let told = self.room.replace(status.clone());
        if told.as_ref().is_some_and(|told| (told.state, &told.error) == (status.state, &status.error)) {
            return;
        }
        let before = told.map(|told| told.state);
        let server = &status.server;
        let text = match (&status.error, status.state) {
            (Some(error), State::Connecting) => format!("the room: {error}; trying again"),
            (Some(error), State::Recovering) => format!("the room is interrupted: {error}; trying again"),
            (error, State::Failed) => {
                format!("the room is given up: {}", error.as_deref().unwrap_or("no connection"))
            }
            (_, State::Running) if before == Some(State::Recovering) => "the room is back".to_owned(),
            (_, State::Running) => return tracing::info!(%server, "the room is there"),
            _ => return,
        };
        self.warn(&text);
    }

    /// Tells how storing the recording gets on.
    pub(crate) fn report_upload(&mut self, status: &DeliveryStatus) {
        let problem = status.problem.as_ref().map(|problem| format!(": {problem}")).unwrap_or_default();
        let backup = if status.backup { " in its backup" } else { "" };
        let pending = status.pending;
        if let Some(text) = outage_message(self.outage_since_unix_ms, status) {
            self.outage_since_unix_ms = status.failing_since_unix_ms;
            return self.warn(&text);
        }
        let text = match status.state {
            DeliveryState::Uploading if pending == 0 => format!("the recording is being stored{backup}"),
            DeliveryState::Uploading => {
                format!("the recording is being stored{backup}, {pending} files to go{problem}")
            }
            DeliveryState::Stuck => {
                format!("the recording waits for storage, {pending} files to go{problem}")
            }
            DeliveryState::Failed => {
                format!("the recording cannot be stored, {pending} files to go{problem}")
            }
            // The summary says so.
            DeliveryState::Stored | DeliveryState::Empty => return,
        };
        if self.last_upload_message.replace(text.clone()).is_some_and(|told| told == text) {
            return;
        }
        if status.state == DeliveryState::Uploading {
            self.clear();
            tracing::info!("{text}");
        } else {
            self.warn(&text);
        }
    }

    /// Tells something that should not be, on a line of its own.
    pub(crate) fn warn(&mut self, text: &str) {
        if self.enabled {
            self.clear();
            eprintln!("{text}");
        } else {
            tracing::warn!("{text}");
        }
    }

    /// Makes room for other lines.
    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.is_displayed) {
            eprint!("{ERASE_LINE}");
        }
    }
}

/// What to say of storage that began to fail, or works again; `told` is since when it fails, if that was
/// told.
fn outage_message(told: Option<i64>, status: &DeliveryStatus) -> Option<String> {
    let pending = status.pending;
    match (told, status.failing_since_unix_ms) {
        (None, Some(since)) => {
            let problem = status.problem.as_deref().unwrap_or("it does not answer");
            Some(format!(
                "storage fails since {} UTC: {problem}; {pending} files wait in the spool, all else goes on",
                time_of_day(since)
            ))
        }
        (Some(since), None) => Some(format!(
            "storage works again; it failed since {} UTC; {pending} files to go",
            time_of_day(since)
        )),
        _ => None,
    }
}

/// Like `14:03:20`, of milliseconds since 1970.
fn time_of_day(unix_ms: i64) -> String {
    let seconds = unix_ms.div_euclid(1000).rem_euclid(86_400);
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

fn fault_description(trouble: HealthFault) -> &'static str {
    match trouble {
        HealthFault::StartTimeout => "the page did not say in time that it is ready",
        HealthFault::Freeze => "the page is frozen",
        HealthFault::Blank => "the page is blank",
        HealthFault::Crash => "the page crashed",
        HealthFault::Unreachable => "the page cannot be opened",
    }
}

/// What the live line says of the cast. `in_room`: a room takes the page, and perhaps nothing else does.
fn progress_fields(last: &Progress, now: &Progress, in_room: bool) -> Vec<Field> {
    let seconds = (now.elapsed - last.elapsed).as_secs_f64().max(0.001);
    let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
    let [left, right] = now.peak.map(format_db);
    let mut fields = vec![
        Field::new(0, now.elapsed.to_string()),
        Field::new(2, format!("page {:.0} fps", rate(now.frames_captured, last.frames_captured))),
    ];
    // Without a recording and pushes, no picture is encoded but for the room.
    if now.frames_encoded > 0 || !in_room {
        fields
            .push(Field::new(9, format!("encoded {:.0} fps", rate(now.frames_encoded, last.frames_encoded))));
        let unchanged = rate(now.frames_unchanged, last.frames_unchanged);
        fields.push(Field::new(10, format!("unchanged {unchanged:.0}/s")));
        fields.push(Field::new(3, format!("{:.0} kbit/s", rate(now.bytes, last.bytes) * 8.0 / 1000.0)));
        fields.push(Field::new(4, format_bytes(now.bytes)));
    }
    fields.push(Field::new(6, format!("sound {left}/{right} dB")));
    fields
}

/// What the live line says of the room.
fn room_fields(room: &RoomStatus, viewers: Option<usize>) -> Vec<Field> {
    if room.state != State::Running {
        return vec![Field::new(1, "room: not connected".to_owned())];
    }
    let layers = room.layers.iter().map(|layer| match layer.target_kbps {
        0 => format!("{}p paused", layer.height),
        target => format!("{}p{} {}/{target}", layer.height, layer.fps, layer.bitrate_kbps),
    });
    let loss = room.layers.iter().map(|layer| layer.loss).fold(0.0, f32::max);
    let layers = layers.collect::<Vec<_>>().join(" + ");
    let mut fields = vec![Field::new(1, format!("room {layers} kbit/s"))];
    fields.extend(room.rtt_ms.map(|ms| Field::new(8, format!("rtt {ms:.0} ms"))));
    fields.push(Field::new(7, format!("loss {:.1} %", loss * 100.0)));
    fields.extend(viewers.map(|count| Field::new(5, format!("viewers {count}"))));
    fields
}

fn format_db(peak: f32) -> String {
    if peak > 0.0 { format!("{:.0}", 20.0 * peak.log10()) } else { "-∞".into() }
}

fn format_bytes(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.0} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

/// What the page's owner should know, in the words of this command line.
pub(crate) fn warning_message(warning: Warning) -> &'static str {
    match warning {
        Warning::WebRtcWithoutUdp => {
            "the page uses WebRTC, which may not get through without UDP: allow it with --allow-udp"
        }
        Warning::InsecureTls => {
            "the page's own server has a certificate that is not trusted; it was accepted (--insecure-tls)"
        }
    }
}

/// Lines of a summary about what was odd with the page.
fn page_problem_lines(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(longest) = report.hangs.iter().max_by_key(|hang| hang.duration_ms) {
        let seconds = |ms: u64| ms as f64 / 1000.0;
        let more = match report.hangs.len() {
            1 => String::new(),
            count => format!(", the longest of {count} times"),
        };
        lines.push(format!(
            "hung     the page's scripts did not run for {:.1} s, {:.1} s after the start{more}",
            seconds(longest.duration_ms),
            seconds(longest.at_ms)
        ));
    }
    lines.extend(report.warnings.iter().map(|kind| format!("warning  {}", warning_message(*kind))));
    lines
}

/// What became of a recording, in a few lines.
pub(crate) fn summary(source: &Source, report: &Report) -> String {
    // From the start to the end: most of the CPU time of a short recording is spent before its first frame.
    let lasted_ms = report.timeline.last().map_or(0, |turn| turn.at_ms).max(report.duration_ms);
    let cores = |cpu_ms: u64| cpu_ms as f64 / lasted_ms.max(1) as f64;
    let cpu = report.cpu_ms;
    let memory = report.peak_rss_bytes;
    let mut lines = vec![
        format!(
            "{}  {:.1} s, {} at {} fps, {}",
            recording_path(report),
            report.duration_ms as f64 / 1000.0,
            source.size,
            source.fps.get(),
            format_bytes(report.bytes)
        ),
        format!(
            "frames   {} from the page, {} unchanged, {} encoded, {} late\nstart    first frame after {} ms",
            report.frames_captured,
            report.frames_unchanged,
            report.frames_encoded,
            report.frames_dropped,
            report.first_frame_ms
        ),
        format!(
            "cost     {:.2} cores: browser {:.2}, display and sound {:.2}, encoding {:.2}",
            cores(cpu.total),
            cores(cpu.browser),
            cores(cpu.display),
            cores(cpu.encode),
        ),
        format!(
            "memory   {} browser, {} Pagecast",
            format_bytes(memory.browser),
            format_bytes(memory.pagecast)
        ),
    ];
    if report.reloads + report.moves > 0 {
        let evidence = report.evidence.as_ref().map(|e| format!("; see {}", e.display())).unwrap_or_default();
        lines.push(format!("healed   {} reloads, {} fresh browsers{evidence}", report.reloads, report.moves));
    }
    lines.extend(page_problem_lines(report));
    for push in &report.pushes {
        let trouble = push.error.as_ref().map(|error| format!(", {error}")).unwrap_or_default();
        lines.push(format!(
            "push     {}  {}, {} packets lost, {} reconnects{trouble}",
            push.url,
            format_bytes(push.bytes),
            push.lost,
            push.reconnects
        ));
    }
    if let Some(room) = &report.room {
        let trouble = room.error.as_ref().map(|error| format!(", {error}")).unwrap_or_default();
        lines.push(format!("room     {}  {} reconnects{trouble}", room.server, room.reconnects));
    }
    if report.restarts > 0 {
        lines.push(format!("resumed  {} times after its process died", report.restarts));
    }
    lines.join("\n")
}

/// What to open: the first file of the recording.
pub(crate) fn recording_path(report: &Report) -> String {
    match &report.recording {
        None => "not recorded".to_owned(),
        Some(recording) => output_location(recording),
    }
}

/// Where a recording is, and what to open there.
pub(crate) fn output_location(recording: &UploadReport) -> String {
    match (recording.files.as_slice(), &recording.spool) {
        (_, Some(spool)) => spool.display().to_string(),
        ([], None) => recording.location.clone(),
        ([file, more @ ..], None) => {
            let here = std::env::current_dir().unwrap_or_default();
            let folder = Path::new(&recording.location);
            let first = match folder.strip_prefix(&here) {
                Ok(below) => below.join(&file.name).display().to_string(),
                Err(_) => format!("{}/{}", recording.location, file.name),
            };
            if more.is_empty() { first } else { format!("{first} and {} more", more.len()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pagecast_core::MediaTime;

    #[test]
    fn a_storage_outage_and_its_end_are_each_reported_once() {
        let status = |failing_since_unix_ms, pending| DeliveryStatus {
            pending,
            problem: Some("connection refused".into()),
            failing_since_unix_ms,
            ..DeliveryStatus::default()
        };
        let since = Some(50_600_000);
        assert_eq!(
            outage_message(None, &status(since, 3)).as_deref(),
            Some(
                "storage fails since 14:03:20 UTC: connection refused; 3 files wait in the spool, all else goes on"
            )
        );
        assert_eq!(outage_message(since, &status(since, 4)), None);
        assert_eq!(
            outage_message(since, &status(None, 4)).as_deref(),
            Some("storage works again; it failed since 14:03:20 UTC; 4 files to go")
        );
        assert_eq!(outage_message(None, &status(None, 0)), None);
    }

    #[test]
    fn rates_are_since_the_last_progress() {
        let before = Progress {
            elapsed: MediaTime::from_index(1, 1),
            frames_captured: 30,
            bytes: 1000,
            ..Progress::default()
        };
        let now = Progress {
            elapsed: MediaTime::from_index(2, 1),
            frames_captured: 60,
            bytes: 126_000,
            peak: [1.0, 0.0],
            ..Progress::default()
        };
        let line = terminal::join(&progress_fields(&before, &now, false));
        assert!(line.starts_with("00:00:02.000  page 30 fps") && line.contains("1000 kbit/s"), "{line}");
        assert!(line.ends_with("126 kB  sound 0/-∞ dB"), "{line}");
    }

    #[test]
    fn no_width_wraps_the_status_line() {
        let now = Progress {
            elapsed: MediaTime::from_index(86_399, 1),
            frames_captured: 60,
            frames_encoded: 60,
            frames_unchanged: 60,
            bytes: 1_000_000_000_000,
            peak: [0.001, 0.0],
            ..Progress::default()
        };
        for columns in 1..250 {
            let line = terminal::fit(progress_fields(&Progress::default(), &now, false), columns);
            // Of what can be in it, ∞ alone may take two columns.
            let width = line.chars().count() + line.matches('∞').count();
            assert!(width < columns, "{width} of {columns}: {line}");
        }
        let line = terminal::fit(progress_fields(&Progress::default(), &now, false), 80);
        assert!(line.contains("page") && line.contains("kbit/s") && line.contains("GB"), "{line}");
    }

    #[test]
    fn a_short_recording_costs_what_it_cost() {
        let source = Source::new(pagecast_core::spec::SourceUrl::parse("http://a.example").unwrap());
        let cpu_ms = pagecast_worker::cast::CpuMs { browser: 400, display: 10, encode: 90, total: 500 };
        let event = Event::Ended(pagecast_core::cast::EndReason::Stopped);
        let timeline = vec![pagecast_worker::cast::TimelineEntry { at_ms: 1000, event }];
        let report = Report { timeline, duration_ms: 100, cpu_ms, ..Report::default() };
        let summary = summary(&source, &report);
        assert!(summary.contains("cost     0.50 cores: browser 0.40"), "{summary}");
    }
}
