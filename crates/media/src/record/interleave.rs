//! Interleaves both tracks by decode time, so that a segment has exactly its pictures and sound. Sans-IO.

use std::collections::VecDeque;

use pagecast_core::{MediaTime, Packet, Track};

/// Longest lead of one track, after which the other one counts as stopped: longer than any encoder delay.
const MAX_LEAD: MediaTime = MediaTime(5_000_000_000);

/// Queues of packets that wait for the other track.
#[derive(Debug)]
pub(super) struct Interleaver {
    video: VecDeque<Packet>,
    audio: VecDeque<Packet>,
    /// Whether the recording has video.
    has_video: bool,
}

impl Interleaver {
    pub(super) fn new(has_video: bool) -> Self {
        Self { video: VecDeque::new(), audio: VecDeque::new(), has_video }
    }

    /// Adds the next packet of its track.
    pub(super) fn push(&mut self, packet: Packet) {
        match packet.track {
            Track::Audio => self.audio.push_back(packet),
            Track::Video => {
                // A picture lasts until the next one.
                if let Some(last) = self.video.back_mut() {
                    last.duration = packet.dts - last.dts;
                }
                self.video.push_back(packet);
            }
        }
    }

    /// Takes the next packet in order, if no earlier one can arrive.
    pub(super) fn pop(&mut self) -> Option<Packet> {
        // The duration of the last picture is not known yet.
        let video = self.video.front().filter(|_| self.video.len() > 1).map(|p| p.dts);
        let audio = self.audio.front().map(|p| p.dts);
        let track = match (video, audio) {
            (Some(video), Some(audio)) => Some(if video <= audio { Track::Video } else { Track::Audio }),
            (Some(_), None) => self.exceeds_max_lead(&self.video).then_some(Track::Video),
            // A picture that waits for its duration may be older than this audio packet.
            (None, Some(audio)) => {
                let video_first = self.video.front().is_some_and(|p| p.dts <= audio);
                let audio_first = !self.has_video || (!self.video.is_empty() && !video_first);
                (audio_first || self.exceeds_max_lead(&self.audio)).then_some(Track::Audio)
            }
            (None, None) => None,
        };
        self.pop_track(track?)
    }

    /// Takes the remaining packets in order, after the last push.
    pub(super) fn drain(&mut self) -> Option<Packet> {
        let track = match (self.video.front(), self.audio.front()) {
            (Some(video), Some(audio)) if audio.dts < video.dts => Track::Audio,
            (Some(_), _) => Track::Video,
            (None, _) => Track::Audio,
        };
        self.pop_track(track)
    }

    fn exceeds_max_lead(&self, packets: &VecDeque<Packet>) -> bool {
        packets.front().zip(packets.back()).is_some_and(|(first, last)| last.dts - first.dts > MAX_LEAD)
    }

    fn pop_track(&mut self, track: Track) -> Option<Packet> {
        match track {
            Track::Video => self.video.pop_front(),
            Track::Audio => self.audio.pop_front(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(track: Track, ms: i64) -> Packet {
        let at = MediaTime(ms * 1_000_000);
        let duration = MediaTime(21_000_000);
        Packet { track, data: [].into(), pts: at, dts: at, duration, keyframe: true }
    }

    fn pop_times(queue: &mut Interleaver) -> Vec<(Track, i64)> {
        std::iter::from_fn(|| queue.pop()).map(|p| (p.track, p.dts.as_millis())).collect()
    }

    #[test]
    fn sound_waits_for_the_picture_and_the_picture_for_its_duration() {
        let mut queue = Interleaver::new(true);
        queue.push(packet(Track::Audio, 0));
        assert!(pop_times(&mut queue).is_empty());
        queue.push(packet(Track::Video, 0));
        assert!(pop_times(&mut queue).is_empty());
        queue.push(packet(Track::Video, 1000));
        let picture = queue.pop().unwrap();
        assert_eq!((picture.track, picture.duration.as_millis()), (Track::Video, 1000));
        assert_eq!(pop_times(&mut queue), [(Track::Audio, 0)]);
        queue.push(packet(Track::Audio, 999));
        queue.push(packet(Track::Audio, 1020));
        assert_eq!(pop_times(&mut queue), [(Track::Audio, 999)]);
        let rest: Vec<_> = std::iter::from_fn(|| queue.drain()).map(|p| p.dts.as_millis()).collect();
        assert_eq!(rest, [1000, 1020]);
    }

    #[test]
    fn a_track_that_stops_is_not_waited_for() {
        let mut queue = Interleaver::new(true);
        for ms in (0..20_000).step_by(20) {
            queue.push(packet(Track::Audio, ms));
        }
        let taken = pop_times(&mut queue).len();
        assert!((700..760).contains(&taken), "{taken}");
        let mut alone = Interleaver::new(false);
        alone.push(packet(Track::Audio, 0));
        assert_eq!(pop_times(&mut alone).len(), 1);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_order_is_kept(
            steps in prop::collection::vec((any::<bool>(), 1_i64..400), 1..200),
        ) {
            let mut queue = Interleaver::new(true);
            let (mut at, mut out) = ([0, 0], Vec::new());
            for (is_video, step) in &steps {
                let track = if *is_video { Track::Video } else { Track::Audio };
                queue.push(packet(track, at[usize::from(*is_video)]));
                at[usize::from(*is_video)] += step;
                out.extend(pop_times(&mut queue));
            }
            out.extend(std::iter::from_fn(|| queue.drain()).map(|p| (p.track, p.dts.as_millis())));
            prop_assert_eq!(out.len(), steps.len());
            for track in [Track::Video, Track::Audio] {
                let own: Vec<_> = out.iter().filter(|(t, _)| *t == track).map(|(_, ms)| *ms).collect();
                prop_assert!(own.is_sorted());
            }
        }
    }
}
