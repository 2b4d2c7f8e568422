//! The bounded packet queue of one sink, and what it drops when the sink is too slow. Sans-IO.

use std::collections::VecDeque;
use std::time::Duration;

use pagecast_core::{MediaTime, Packet, Track};

use super::Received;

/// Memory of a queued packet beside its data, in bytes, so that the byte limit also limits the packet count.
const PACKET_OVERHEAD_BYTES: usize = 128;
/// Packets of other tracks that are kept while waiting for a keyframe, as they may belong after it: 1.3 s of
/// audio. Full: the oldest is dropped.
const MAX_EARLY_PACKETS: usize = 64;

/// Limits of a queue. Full: everything is dropped until the next keyframe for which there is room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimit {
    /// Largest size in bytes, with 128 bytes of overhead for each packet.
    pub bytes: usize,
    /// Longest time from the oldest packet to the newest.
    pub duration: Duration,
}

/// Statistics of a queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Packets dropped since the first one was queued.
    pub lost: u64,
    /// Bytes queued, with 128 bytes of overhead for each packet.
    pub bytes: usize,
    /// Time from the oldest queued packet to the newest: the delay of the sink.
    pub delay: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum QueueState {
    /// Packets from this time on are taken.
    Accepting(MediaTime),
    /// Everything up to the next keyframe is dropped.
    AwaitingKeyframe,
    /// Nothing is taken.
    Paused,
}

/// The queue of one subscription.
#[derive(Debug)]
pub(super) struct Queue {
    reference_track: Track,
    limit: QueueLimit,
    state: QueueState,
    packets: VecDeque<Packet>,
    bytes: usize,
    /// Packets of other tracks, kept in case they are no older than the next keyframe.
    early: VecDeque<Packet>,
    newest_pts: MediaTime,
    /// Time of the first queued packet; packets dropped before it do not count as lost.
    first_pts: Option<MediaTime>,
    lost: u64,
    ended: bool,
}

impl Queue {
    /// An empty queue. `late`: packets have passed already, so it starts with a keyframe.
    pub(super) fn new(reference_track: Track, limit: QueueLimit, late: bool) -> Self {
        Self {
            reference_track,
            limit,
            state: if late {
                QueueState::AwaitingKeyframe
            } else {
                QueueState::Accepting(MediaTime(i64::MIN))
            },
            packets: VecDeque::new(),
            bytes: 0,
            early: VecDeque::new(),
            newest_pts: MediaTime(i64::MIN),
            first_pts: None,
            lost: 0,
            ended: false,
        }
    }

    pub(super) fn push(&mut self, packet: Packet) {
        let is_reference = packet.track == self.reference_track;
        match self.state {
            QueueState::Accepting(from) if !is_reference && packet.pts < from => self.count_lost(packet),
            QueueState::Accepting(from) if self.has_room(&packet) => self.append(packet, from),
            QueueState::Accepting(_) => {
                self.state = QueueState::AwaitingKeyframe;
                self.count_lost(packet);
            }
            QueueState::AwaitingKeyframe if is_reference && packet.keyframe && self.has_room(&packet) => {
                self.resume_at(packet);
            }
            QueueState::AwaitingKeyframe if is_reference => self.count_lost(packet),
            QueueState::AwaitingKeyframe => {
                self.early.push_back(packet);
                if self.early.len() > MAX_EARLY_PACKETS {
                    self.early.pop_front().into_iter().for_each(|oldest| self.count_lost(oldest));
                }
            }
            QueueState::Paused => self.count_lost(packet),
        }
    }

    /// Continues with a keyframe and the early packets that are no older than it.
    fn resume_at(&mut self, keyframe: Packet) {
        let from = keyframe.pts;
        self.state = QueueState::Accepting(from);
        self.append(keyframe, from);
        for packet in std::mem::take(&mut self.early) {
            self.push(packet);
        }
    }

    fn append(&mut self, packet: Packet, from: MediaTime) {
        self.first_pts.get_or_insert(from);
        self.bytes += queued_size(&packet);
        self.newest_pts = packet.pts.max(self.newest_pts);
        self.packets.push_back(packet);
    }

    fn has_room(&self, packet: &Packet) -> bool {
        let Some(oldest) = self.packets.front() else { return true };
        let span = packet.pts - oldest.pts;
        self.bytes + queued_size(packet) <= self.limit.bytes && span <= self.limit.duration.into()
    }

    #[expect(clippy::needless_pass_by_value, reason = "consumes the packet, which is dropped")]
    fn count_lost(&mut self, packet: Packet) {
        self.lost += u64::from(self.first_pts.is_some_and(|from| packet.pts >= from));
    }

    pub(super) fn pop(&mut self) -> Received {
        match self.packets.pop_front() {
            Some(packet) => {
                self.bytes -= queued_size(&packet);
                Received::Packet(packet)
            }
            None if self.ended => Received::Closed,
            None => Received::Empty,
        }
    }

    pub(super) fn pause(&mut self) {
        self.clear(QueueState::Paused);
    }

    pub(super) fn restart(&mut self) {
        self.clear(QueueState::AwaitingKeyframe);
    }

    fn clear(&mut self, state: QueueState) {
        let dropped = std::mem::take(&mut self.packets).into_iter().chain(std::mem::take(&mut self.early));
        dropped.for_each(|packet| self.count_lost(packet));
        self.bytes = 0;
        self.state = state;
    }

    /// Ends the stream; queued packets can still be taken.
    pub(super) fn close(&mut self) {
        self.ended = true;
    }

    pub(super) fn stats(&self) -> QueueStats {
        let oldest = self.packets.front().map_or(self.newest_pts, |packet| packet.pts);
        let nanos = u64::try_from((self.newest_pts - oldest).0).unwrap_or(0);
        QueueStats { lost: self.lost, bytes: self.bytes, delay: Duration::from_nanos(nanos) }
    }
}

fn queued_size(packet: &Packet) -> usize {
    packet.data.len() + PACKET_OVERHEAD_BYTES
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A video packet of 100 bytes at so many milliseconds.
    pub(crate) fn video(ms: i64, keyframe: bool) -> Packet {
        packet(Track::Video, ms, keyframe)
    }

    /// An audio packet of 100 bytes at so many milliseconds.
    pub(crate) fn audio(ms: i64) -> Packet {
        packet(Track::Audio, ms, true)
    }

    fn packet(track: Track, ms: i64, keyframe: bool) -> Packet {
        let at = MediaTime::from_index(ms, 1000);
        let duration = MediaTime::from_index(1, 1000);
        Packet { track, data: vec![0; 100].into(), pts: at, dts: at, duration, keyframe }
    }

    fn queue(bytes: usize, span_ms: u64, late: bool) -> Queue {
        Queue::new(Track::Video, QueueLimit { bytes, duration: Duration::from_millis(span_ms) }, late)
    }

    /// All queued packets as text: `v`, `V` for a keyframe or `a`, each with its time.
    fn drain(queue: &mut Queue) -> String {
        let mut all = Vec::new();
        while let Received::Packet(packet) = queue.pop() {
            let kind = match (packet.track, packet.keyframe) {
                (Track::Audio, _) => 'a',
                (Track::Video, true) => 'V',
                (Track::Video, false) => 'v',
            };
            all.push(format!("{kind}{}", packet.pts.as_millis()));
        }
        all.join(" ")
    }

    #[test]
    fn a_queue_from_the_start_takes_every_packet() {
        let mut queue = queue(usize::MAX, 1000, false);
        [audio(-21), audio(0), video(0, true), audio(21)].into_iter().for_each(|p| queue.push(p));
        assert_eq!(drain(&mut queue), "a-21 a0 V0 a21");
    }

    #[test]
    fn a_late_queue_begins_with_a_keyframe_and_the_sound_that_belongs_to_it() {
        let mut queue = queue(usize::MAX, 1000, true);
        let all = [video(8, false), audio(8), audio(10), audio(12), video(10, true), audio(9), audio(14)];
        all.into_iter().for_each(|p| queue.push(p));
        assert_eq!(drain(&mut queue), "V10 a10 a12 a14");
        assert_eq!(queue.stats().lost, 0, "packets before the first queued one do not count");
    }

    #[test]
    fn excess_packets_are_dropped_up_to_a_keyframe() {
        for mut queue in [queue(4 * 228, 1000, false), queue(usize::MAX, 3, false)] {
            for at in 0..8 {
                queue.push(video(at, at == 0 || at == 5));
                queue.push(audio(at));
            }
            assert!(queue.stats().bytes <= 8 * 228, "{:?}", queue.stats());
            let before = queue.stats().lost;
            assert!(drain(&mut queue).starts_with("V0 a0 v1 a1") && before > 0);
            queue.push(video(8, false));
            queue.push(audio(8));
            assert_eq!(drain(&mut queue), "", "no keyframe yet");
            queue.push(video(9, true));
            queue.push(video(10, false));
            assert_eq!(drain(&mut queue), "V9 v10");
        }
    }

    #[test]
    fn one_packet_is_always_taken() {
        let mut queue = queue(10, 0, false);
        queue.push(video(0, true));
        assert_eq!(drain(&mut queue), "V0");
    }

    #[test]
    fn the_audio_leads_if_there_is_no_video() {
        let mut queue =
            Queue::new(Track::Audio, QueueLimit { bytes: 500, duration: Duration::from_secs(1) }, true);
        (0..4).for_each(|at| queue.push(audio(at)));
        assert_eq!((drain(&mut queue).as_str(), queue.stats().lost), ("a0 a1", 2));
        queue.push(audio(4));
        assert_eq!(drain(&mut queue), "a4");
    }

    #[test]
    fn a_pause_drops_all_and_a_restart_waits_for_a_keyframe() {
        let mut queue = queue(usize::MAX, 1000, false);
        [video(0, true), audio(0)].into_iter().for_each(|p| queue.push(p));
        queue.pause();
        queue.push(video(1, true));
        assert_eq!((drain(&mut queue).as_str(), queue.stats().bytes, queue.stats().lost), ("", 0, 3));
        queue.restart();
        [video(2, false), video(3, true)].into_iter().for_each(|p| queue.push(p));
        assert_eq!((drain(&mut queue).as_str(), queue.stats().lost), ("V3", 4));
    }

    #[test]
    fn the_delay_is_the_time_that_is_queued() {
        let mut queue = queue(usize::MAX, 1000, false);
        [video(0, true), video(40, false), audio(30)].into_iter().for_each(|p| queue.push(p));
        assert_eq!(queue.stats().delay, Duration::from_millis(40));
        drain(&mut queue);
        assert_eq!(queue.stats().delay, Duration::ZERO);
    }
}
