//! Renders HLS playlists (RFC 8216). Sans-IO.

use std::fmt::Write as _;

use chrono::DateTime;
use pagecast_core::MediaTime;
use pagecast_core::ledger::{Run, Segment};

use super::file_names::FileNames;

/// Segments in a live playlist: players start three segments before the end and may fall behind a little.
const LIVE_WINDOW_SEGMENTS: usize = 15;
/// Segments between two date-time tags: enough for seeking by date, without bloating long playlists.
const DATE_TIME_INTERVAL_SEGMENTS: u32 = 10;

/// Whether a playlist is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PlaylistState {
    /// The recording runs, and the playlist grows.
    Running,
    /// The recording has ended.
    Complete,
}

/// The contents of the playlists.
#[derive(Debug)]
pub(super) struct Playlists {
    pub(super) is_ts: bool,
    /// Target duration of a segment, in whole seconds.
    target_duration_s: i64,
    runs: Vec<Run>,
    segments: Vec<Segment>,
}

impl Playlists {
    /// Empty playlists; `segment` is the configured length of a segment.
    pub(super) fn new(is_ts: bool, segment: MediaTime) -> Self {
        Self { is_ts, target_duration_s: whole_seconds(segment), runs: Vec::new(), segments: Vec::new() }
    }

    pub(super) fn add_run(&mut self, run: Run) {
        self.runs.push(run);
    }

    /// Adds the next stored segment.
    pub(super) fn add_segment(&mut self, segment: Segment) {
        self.segments.push(segment);
    }

    /// Removes all segments.
    pub(super) fn clear(&mut self) {
        self.segments.clear();
    }

    /// Number of segments.
    pub(super) fn len(&self) -> usize {
        self.segments.len()
    }

    /// Renders the playlist of all segments: of type `EVENT` while running, `VOD` when complete.
    pub(super) fn render_full(&self, names: &FileNames, state: PlaylistState) -> String {
        let mut text = self.render_header(0, 0, &self.segments);
        text.push_str(match state {
            PlaylistState::Running => "#EXT-X-PLAYLIST-TYPE:EVENT\n",
            PlaylistState::Complete => "#EXT-X-PLAYLIST-TYPE:VOD\n",
        });
        self.render_segments(&mut text, names, &self.segments);
        if state == PlaylistState::Complete {
            text.push_str("#EXT-X-ENDLIST\n");
        }
        text
    }

    /// Renders the playlist of the last segments. When complete, it ends with `EXT-X-ENDLIST`.
    pub(super) fn render_live(&self, names: &FileNames, state: PlaylistState) -> String {
        let (gone, last) = self.segments.split_at(self.segments.len().saturating_sub(LIVE_WINDOW_SEGMENTS));
        // A discontinuity before the first segment of the window has left the window.
        let until_window = &self.segments[..self.segments.len().min(gone.len() + 1)];
        let discontinuities = until_window.windows(2).filter(|pair| !follows(&pair[0], &pair[1])).count();
        let mut text = self.render_header(gone.len(), discontinuities, last);
        self.render_segments(&mut text, names, last);
        if state == PlaylistState::Complete {
            text.push_str("#EXT-X-ENDLIST\n");
        }
        text
    }

    fn render_header(&self, sequence: usize, discontinuities: usize, segments: &[Segment]) -> String {
        let longest = segments.iter().map(|s| whole_seconds(s.duration)).max().unwrap_or(0);
        let (version, target) = (if self.is_ts { 3 } else { 7 }, self.target_duration_s.max(longest));
        let mut text = format!(
            "#EXTM3U\n#EXT-X-VERSION:{version}\n#EXT-X-TARGETDURATION:{target}\n\
             #EXT-X-MEDIA-SEQUENCE:{sequence}\n"
        );
        if discontinuities > 0 {
            let _infallible = writeln!(text, "#EXT-X-DISCONTINUITY-SEQUENCE:{discontinuities}");
        }
        text.push_str("#EXT-X-INDEPENDENT-SEGMENTS\n");
        text
    }

    fn render_segments(&self, text: &mut String, names: &FileNames, segments: &[Segment]) {
        let mut previous: Option<&Segment> = None;
        for segment in segments {
            let starts_run = previous.is_none_or(|previous| previous.run != segment.run);
            let jumps = previous.is_some_and(|previous| !follows(previous, segment));
            previous = Some(segment);
            // Writing to a string never fails.
            if jumps {
                text.push_str("#EXT-X-DISCONTINUITY\n");
            }
            if starts_run && !self.is_ts {
                let init = names.init(segment.epoch, segment.run);
                let _infallible = writeln!(text, "#EXT-X-MAP:URI=\"{init}\"");
            }
            if starts_run || jumps || segment.index.is_multiple_of(DATE_TIME_INTERVAL_SEGMENTS) {
                let at = self.runs.iter().find(|r| r.index == segment.run).map_or(0, |r| r.unix_ms);
                let at = format_date_time(at + segment.start.as_millis());
                let _infallible = writeln!(text, "#EXT-X-PROGRAM-DATE-TIME:{at}");
            }
            let name = if self.is_ts {
                names.ts(segment.epoch, segment.index)
            } else {
                names.segment(segment.epoch, segment.index)
            };
            let _infallible = writeln!(text, "#EXTINF:{:.6},\n{name}", segment.duration.as_secs_f64());
        }
    }
}

/// Whether players can play `next` after `segment` without a discontinuity: it has the same encoder, and no
/// segment between them is missing.
fn follows(segment: &Segment, next: &Segment) -> bool {
    segment.run == next.run && segment.index + 1 == next.index
}

fn whole_seconds(duration: MediaTime) -> i64 {
    (duration.as_secs_f64().round() as i64).max(1)
}

/// Formats milliseconds since 1970 like `2023-11-14T22:13:20.000Z`.
pub(super) fn format_date_time(unix_ms: i64) -> String {
    let time = DateTime::from_timestamp_millis(unix_ms).unwrap_or_default();
    time.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn playlists(ts: bool, run_starts: &[u32], count: u32) -> Playlists {
        let mut playlists = Playlists::new(ts, MediaTime::from_index(4, 1));
        let mut start = 0;
        for index in 0..count {
            let run = u32::try_from(run_starts.iter().filter(|at| **at <= index).count()).unwrap();
            if index == 0 || run_starts.contains(&index) {
                playlists.add_run(Run {
                    index: run,
                    epoch: 1,
                    unix_ms: 1_700_000_000_000 + i64::from(run) * 3_600_000,
                    tick: MediaTime::ZERO,
                });
            }
            let duration = MediaTime::from_index(4, 1);
            playlists.add_segment(Segment {
                index,
                run,
                epoch: 1,
                start: MediaTime::from_index(start, 1),
                duration,
                bytes: 1,
            });
            start += 4;
        }
        playlists
    }

    #[test]
    fn a_second_run_is_marked_as_discontinuity() {
        let text = playlists(false, &[2], 3).render_full(&FileNames::new("t"), PlaylistState::Complete);
        assert_eq!(
            text,
            "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:4\n#EXT-X-MEDIA-SEQUENCE:0\n\
             #EXT-X-INDEPENDENT-SEGMENTS\n#EXT-X-PLAYLIST-TYPE:VOD\n\
             #EXT-X-MAP:URI=\"t_init.mp4\"\n#EXT-X-PROGRAM-DATE-TIME:2023-11-14T22:13:20.000Z\n\
             #EXTINF:4.000000,\nt_0.m4s\n#EXTINF:4.000000,\nt_1.m4s\n\
             #EXT-X-DISCONTINUITY\n#EXT-X-MAP:URI=\"t_init_1.mp4\"\n\
             #EXT-X-PROGRAM-DATE-TIME:2023-11-14T23:13:28.000Z\n#EXTINF:4.000000,\nt_2.m4s\n#EXT-X-ENDLIST\n"
        );
    }

    #[test]
    fn a_missing_segment_is_a_discontinuity_and_sequence_numbers_go_on() {
        let mut playlists = Playlists::new(false, MediaTime::from_index(4, 1));
        let duration = MediaTime::from_index(4, 1);
        playlists.add_run(Run { index: 0, epoch: 1, unix_ms: 0, tick: MediaTime::ZERO });
        playlists.add_run(Run { index: 1, epoch: 2, unix_ms: 0, tick: MediaTime::ZERO });
        for index in (0..20).filter(|index| *index != 1) {
            let (run, epoch) = if index < 10 { (0, 1) } else { (1, 2) };
            let start = MediaTime::from_index(4 * i64::from(index), 1);
            playlists.add_segment(Segment { index, run, epoch, start, duration, bytes: 1 });
        }
        let text = playlists.render_full(&FileNames::new("t"), PlaylistState::Running);
        assert!(text.contains("t_0.m4s\n#EXT-X-DISCONTINUITY\n#EXT-X-PROGRAM-DATE-TIME:"), "{text}");
        assert!(
            text.contains("t_9.m4s\n#EXT-X-DISCONTINUITY\n#EXT-X-MAP:URI=\"t_r2_init_1.mp4\"\n"),
            "{text}"
        );
        let text = playlists.render_live(&FileNames::new("t"), PlaylistState::Running);
        let header = "#EXT-X-MEDIA-SEQUENCE:4\n#EXT-X-DISCONTINUITY-SEQUENCE:1\n";
        assert!(text.contains(header) && text.contains("t_5.m4s") && !text.contains("t_4.m4s"), "{text}");
    }

    #[test]
    fn a_live_playlist_slides() {
        let names = FileNames::new("t");
        let text = playlists(true, &[3, 8], 20).render_live(&names, PlaylistState::Running);
        assert!(text.contains("#EXT-X-MEDIA-SEQUENCE:5\n#EXT-X-DISCONTINUITY-SEQUENCE:1\n"), "{text}");
        assert!(text.matches("#EXTINF").count() == 15 && text.matches("#EXT-X-DISCONTINUITY\n").count() == 1);
        assert!(!text.contains("ENDLIST") && !text.contains("PLAYLIST-TYPE") && !text.contains("MAP"));
        // A discontinuity leaves the window with the segment behind it.
        let text = playlists(true, &[5], 20).render_live(&names, PlaylistState::Running);
        assert!(text.contains("DISCONTINUITY-SEQUENCE:1\n") && !text.contains("DISCONTINUITY\n"), "{text}");
        assert!(text.starts_with("#EXTM3U\n#EXT-X-VERSION:3\n"));
        assert_eq!(
            playlists(true, &[5], 20).render_live(&names, PlaylistState::Complete),
            text + "#EXT-X-ENDLIST\n"
        );
    }

    #[test]
    fn a_day_long_playlist_stays_small() {
        let day = playlists(true, &[], 21_600);
        let text =
            day.render_full(&FileNames::new("0123456789abcdef0123456789abcdef"), PlaylistState::Running);
        assert!(text.len() < 21_600 * 70, "{} bytes", text.len());
        assert!(text.ends_with("0123456789abcdef0123456789abcdef_21599.ts\n"));
        assert!(text.contains("#EXT-X-PROGRAM-DATE-TIME:2023-11-15T22:12:40.000Z"), "ten from the end");
    }

    #[test]
    fn dates() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (4_102_444_800_001, "2100-01-01T00:00:00.001Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(format_date_time(ms), text);
        }
    }
}
