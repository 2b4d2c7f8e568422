//! Output of the commands: a status line that is rewritten while a cast runs, messages, and a summary.
#![expect(clippy::print_stderr, reason = "all messages to the terminal are printed here")]

mod table;
mod terminal;

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::Path;

use pagecast_core::cast::{Event, HealthFault, Warning};
use pagecast_core::connection::State;
use pagecast_core::spec::Source;
use pagecast_worker::cast::{
    Progress, PushEvent, Report, RoomStatus, UploadReport, UploadState, UploadStatus,
};

pub(crate) use table::{Column, printable};
use terminal::Field;

/// Moves to the start of the line and erases it, with the rest of a line that was wrapped below it.
const ERASE_LINE: &str = "\r\x1b[J";

/// Returns whether standard error is a terminal that supports escape sequences.
pub(crate) fn stderr_is_terminal() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|name| name != "dumb")
}

/// Prints a message on standard error.
pub(crate) fn print_message(line: &str) {
    eprintln!("{line}");
}

/// Prints a line of the result on standard output.
pub(crate) fn print_result(line: &str) {
    // The reader may have closed the pipe.
    let _closed = writeln!(std::io::stdout(), "{line}");
}

/// Prints a table on standard output. On a terminal it has the terminal's width.
pub(crate) fn print_table<const N: usize>(columns: &[Column; N], rows: &[[String; N]]) {
    let stdout = std::io::stdout();
    let width = stdout.is_terminal().then(|| terminal::columns_of(&stdout));
    table::render(columns, rows, width).iter().for_each(|line| print_result(line));
}

/// The status line of a running cast. Where it is disabled, what it would show is logged.
pub(crate) struct StatusLine {
    last_progress: Progress,
    is_displayed: bool,
    enabled: bool,
    /// The last message about the upload.
    last_upload_message: Option<String>,
    /// Start of the storage outage that was reported, in milliseconds since 1970.
    outage_since_unix_ms: Option<i64>,
    /// The state and error of each push that were reported last.
    pushes: BTreeMap<u32, (State, Option<String>)>,
    /// The last status of the room.
    room: Option<RoomStatus>,
    /// Counts the viewers of the room.
    viewer_counter: Option<ViewerCounter>,
}

/// Returns the number of viewers of a room.
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

    /// Shows the number of viewers, too.
    pub(crate) fn set_viewer_counter(&mut self, viewers: ViewerCounter) {
        self.viewer_counter = Some(viewers);
    }

    /// Shows the progress of the cast; where the line is disabled, logs it every ten seconds.
    pub(crate) fn update(&mut self, now: &Progress) {
        let mut fields = progress_fields(&self.last_progress, now, self.room.is_some());
        if let Some(room) = &self.room {
            fields.extend(room_fields(room, self.viewer_counter.as_ref().and_then(|count| count())));
        }
        let ten_seconds = |p: &Progress| p.elapsed.as_millis() / 10_000;
        if self.enabled {
            // The cursor stays at the start of the line: it is there also after a resize wraps the line, and
            // output of other programs replaces the line.
            eprint!("\r{}\x1b[J\r", terminal::fit(fields, terminal::columns()));
            let _unflushed = std::io::stderr().flush();
            self.is_displayed = true;
        } else if ten_seconds(now) > ten_seconds(&self.last_progress) {
            tracing::info!(progress = terminal::join(&fields), "cast progress");
        }
        self.last_progress = *now;
    }

    /// Reports a step in the life of the cast, on a line of its own.
    pub(crate) fn report_event(&mut self, event: Event) {
        match event {
            Event::Reloaded(fault) => {
                let fault = fault_description(fault);
                self.warn(&format!("{fault}, reloading the page"), || tracing::warn!(fault, "page reloaded"));
            }
            Event::Moved(fault) => {
                let fault = fault_description(fault);
                self.warn(&format!("{fault}, replacing the browser"), || {
                    tracing::warn!(fault, "page moved to a new browser");
                });
            }
            Event::Live => tracing::info!("page live"),
            Event::Ended(_) => {}
        }
    }

    /// Reports a change of a push, once, on a line of its own.
    pub(crate) fn report_push(&mut self, push: &PushEvent) {
        let current = (push.state, push.error.clone());
        let last = self.pushes.insert(push.id, current.clone());
        if last.as_ref() == Some(&current) {
            return;
        }
        let url = &push.url;
        match (&push.error, push.state) {
            (Some(error), State::Connecting) => {
                self.warn(&format!("push to {url} failed, retrying: {error}"), || {
                    tracing::warn!(url, error, "push failed, retrying");
                });
            }
            (Some(error), State::Recovering) => {
                self.warn(&format!("push to {url} lost, reconnecting: {error}"), || {
                    tracing::warn!(url, error, "push lost, reconnecting");
                });
            }
            (error, State::Failed) => {
                let error = error.as_deref().unwrap_or("no connection");
                self.warn(&format!("push to {url} failed: {error}"), || {
                    tracing::warn!(url, error, "push failed");
                });
            }
            (_, State::Running) if last.is_some_and(|(state, _)| state == State::Recovering) => {
                self.warn(&format!("push to {url} reconnected"), || tracing::warn!(url, "push reconnected"));
            }
            (_, State::Running) => tracing::info!(url, "push connected"),
            _ => {}
        }
    }

    /// Reports a change of the room's connection, once, on a line of its own.
    pub(crate) fn report_room(&mut self, status: &RoomStatus) {
        let last = self.room.replace(status.clone());
        if last.as_ref().is_some_and(|last| (last.state, &last.error) == (status.state, &status.error)) {
            return;
        }
        let server = &status.server;
        match (&status.error, status.state) {
            (Some(error), State::Connecting) => {
                self.warn(&format!("room connection failed, retrying: {error}"), || {
                    tracing::warn!(server, error, "room connection failed, retrying");
                });
            }
            (Some(error), State::Recovering) => {
                self.warn(&format!("room connection lost, reconnecting: {error}"), || {
                    tracing::warn!(server, error, "room connection lost, reconnecting");
                });
            }
            (error, State::Failed) => {
                let error = error.as_deref().unwrap_or("no connection");
                self.warn(&format!("room connection failed: {error}"), || {
                    tracing::warn!(server, error, "room connection failed");
                });
            }
            (_, State::Running) if last.is_some_and(|last| last.state == State::Recovering) => {
                self.warn("room reconnected", || tracing::warn!(server, "room reconnected"));
            }
            (_, State::Running) => tracing::info!(server, "room connected"),
            _ => {}
        }
    }

    /// Reports the status of the upload.
    pub(crate) fn report_upload(&mut self, status: &UploadStatus) {
        let problem = status.problem.as_ref().map(|problem| format!(": {problem}")).unwrap_or_default();
        let backup = if status.backup { " to the backup" } else { "" };
        let pending = status.pending;
        if let Some(text) = outage_message(self.outage_since_unix_ms, status) {
            self.outage_since_unix_ms = status.failing_since_unix_ms;
            return self.warn(&text, || log_outage(status));
        }
        let text = match status.state {
            UploadState::Uploading if pending == 0 => format!("upload{backup} running"),
            UploadState::Uploading => format!("upload{backup} running, {pending} files left{problem}"),
            UploadState::Stuck => format!("upload{backup} stuck, {pending} files left{problem}"),
            UploadState::Failed => format!("upload{backup} failed, {pending} files left{problem}"),
            // The summary has the result.
            UploadState::Stored | UploadState::Empty => return,
        };
        if self.last_upload_message.replace(text.clone()).is_some_and(|last| last == text) {
            return;
        }
        let (backup, problem) = (status.backup, status.problem.as_deref());
        match status.state {
            UploadState::Uploading => {
                self.clear();
                tracing::info!(pending, backup, problem, "upload running");
            }
            UploadState::Failed => {
                self.warn(&text, || tracing::warn!(pending, backup, problem, "upload failed"));
            }
            _ => self.warn(&text, || tracing::warn!(pending, backup, problem, "upload stuck")),
        }
    }

    /// Reports a warning for the page's owner, on a line of its own.
    pub(crate) fn report_warning(&mut self, warning: Warning) {
        let advice = warning_message(warning);
        self.warn(advice, || tracing::warn!(warning = warning.as_str(), advice, "page warning"));
    }

    /// Prints a problem on a line of its own; where the status line is disabled, calls `log` instead.
    pub(crate) fn warn(&mut self, text: &str, log: impl FnOnce()) {
        if self.enabled {
            self.clear();
            eprintln!("{text}");
        } else {
            log();
        }
    }

    /// Erases the status line, before other output.
    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.is_displayed) {
            eprint!("{ERASE_LINE}");
        }
    }
}

/// Logs the start or the end of a storage outage.
fn log_outage(status: &UploadStatus) {
    let (pending, problem) = (status.pending, status.problem.as_deref());
    match status.failing_since_unix_ms {
        Some(since_unix_ms) => tracing::warn!(since_unix_ms, pending, problem, "uploads failing"),
        None => tracing::warn!(pending, "uploads resumed"),
    }
}

/// Returns the message for a storage outage that started or ended; `reported` is the start of the outage
/// reported before.
fn outage_message(reported: Option<i64>, status: &UploadStatus) -> Option<String> {
    let pending = status.pending;
    match (reported, status.failing_since_unix_ms) {
        (None, Some(since)) => {
            let problem = status.problem.as_deref().unwrap_or("the storage does not answer");
            Some(format!(
                "uploads failing since {} UTC: {problem}; {pending} files queued in the spool, the cast \
                 continues",
                time_of_day(since)
            ))
        }
        (Some(since), None) => Some(format!(
            "uploads resumed, they failed since {} UTC; {pending} files left",
            time_of_day(since)
        )),
        _ => None,
    }
}

/// Formats milliseconds since 1970 as the time of day, like `14:03:20`.
fn time_of_day(unix_ms: i64) -> String {
    let seconds = unix_ms.div_euclid(1000).rem_euclid(86_400);
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

fn fault_description(fault: HealthFault) -> &'static str {
    match fault {
        HealthFault::StartTimeout => "the page was not ready in time",
        HealthFault::Freeze => "the page is frozen",
        HealthFault::Blank => "the page is blank",
        HealthFault::Crash => "the page crashed",
        HealthFault::Unreachable => "the page cannot be opened",
    }
}

/// Returns the fields of the status line about the cast. `in_room`: the cast has a room, which may be its
/// only output.
fn progress_fields(last: &Progress, now: &Progress, in_room: bool) -> Vec<Field> {
    let seconds = (now.elapsed - last.elapsed).as_secs_f64().max(0.001);
    let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
    let [left, right] = now.peak.map(format_db);
    let mut fields = vec![
        Field::new(0, now.elapsed.to_string()),
        Field::new(2, format!("page {:.0} fps", rate(now.frames_captured, last.frames_captured))),
    ];
    // Without a recording and pushes, only the room's encoders run.
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

/// Returns the fields of the status line about the room.
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

/// Returns the text of a warning, with the flag that helps.
pub(crate) fn warning_message(warning: Warning) -> &'static str {
    match warning {
        Warning::WebRtcWithoutUdp => {
            "the page uses WebRTC, which may fail without UDP: allow it with --allow-udp"
        }
        Warning::InsecureTls => {
            "the certificate of the page's server is not trusted; it was accepted because of --insecure-tls"
        }
    }
}

/// Returns the lines of the summary about problems of the page.
fn page_problem_lines(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(longest) = report.hangs.iter().max_by_key(|hang| hang.duration_ms) {
        let seconds = |ms: u64| ms as f64 / 1000.0;
        let more = match report.hangs.len() {
            1 => String::new(),
            count => format!(", the longest of {count} hangs"),
        };
        lines.push(format!(
            "hang     the page's scripts did not run for {:.1} s, {:.1} s after the start{more}",
            seconds(longest.duration_ms),
            seconds(longest.at_ms)
        ));
    }
    lines.extend(report.warnings.iter().map(|kind| format!("warning  {}", warning_message(*kind))));
    lines
}

/// Returns the summary of a cast, in a few lines.
pub(crate) fn summary(source: &Source, report: &Report) -> String {
    // The whole time counts, as a short recording spends most of its CPU time before its first frame.
    let total_ms = report.timeline.last().map_or(0, |entry| entry.at_ms).max(report.duration_ms);
    let cores = |cpu_ms: u64| cpu_ms as f64 / total_ms.max(1) as f64;
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
            "frames   {} from the page, {} unchanged, {} encoded, {} dropped\nstart    first frame after \
             {} ms",
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
        lines.push(format!("restarts {} reloads, {} new browsers{evidence}", report.reloads, report.moves));
    }
    lines.extend(page_problem_lines(report));
    for push in &report.pushes {
        let error_suffix = push.error.as_ref().map(|error| format!(", {error}")).unwrap_or_default();
        lines.push(format!(
            "push     {}  {}, {} packets lost, {} reconnects{error_suffix}",
            push.url,
            format_bytes(push.bytes),
            push.lost,
            push.reconnects
        ));
    }
    if let Some(room) = &report.room {
        let error_suffix = room.error.as_ref().map(|error| format!(", {error}")).unwrap_or_default();
        lines.push(format!("room     {}  {} reconnects{error_suffix}", room.server, room.reconnects));
    }
    if report.restarts > 0 {
        lines.push(format!("resumed  {} times after its process died", report.restarts));
    }
    lines.join("\n")
}

/// Returns the path of the recording: its first file.
pub(crate) fn recording_path(report: &Report) -> String {
    match &report.recording {
        None => "not recorded".to_owned(),
        Some(recording) => output_location(recording),
    }
}

/// Returns where the result of an upload is: its first file, or the spool if it is incomplete.
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
        let status = |failing_since_unix_ms, pending| UploadStatus {
            pending,
            problem: Some("connection refused".into()),
            failing_since_unix_ms,
            ..UploadStatus::default()
        };
        let since = Some(50_600_000);
        assert_eq!(
            outage_message(None, &status(since, 3)).as_deref(),
            Some(
                "uploads failing since 14:03:20 UTC: connection refused; 3 files queued in the spool, the \
                 cast continues"
            )
        );
        assert_eq!(outage_message(since, &status(since, 4)), None);
        assert_eq!(
            outage_message(since, &status(None, 4)).as_deref(),
            Some("uploads resumed, they failed since 14:03:20 UTC; 4 files left")
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
            // Only ∞ may take two columns.
            let width = line.chars().count() + line.matches('∞').count();
            assert!(width < columns, "{width} of {columns}: {line}");
        }
        let line = terminal::fit(progress_fields(&Progress::default(), &now, false), 80);
        assert!(line.contains("page") && line.contains("kbit/s") && line.contains("GB"), "{line}");
    }

    #[test]
    fn the_cost_of_a_short_recording_counts_its_start() {
        let source = Source::new(pagecast_core::spec::SourceUrl::parse("http://a.example").unwrap());
        let cpu_ms = pagecast_worker::cast::CpuMs { browser: 400, display: 10, encode: 90, total: 500 };
        let event = Event::Ended(pagecast_core::cast::EndReason::Stopped);
        let timeline = vec![pagecast_worker::cast::TimelineEntry { at_ms: 1000, event }];
        let report = Report { timeline, duration_ms: 100, cpu_ms, ..Report::default() };
        let summary = summary(&source, &report);
        assert!(summary.contains("cost     0.50 cores: browser 0.40"), "{summary}");
    }
}
