//! The output of an encoder.

use std::sync::mpsc::SyncSender;

use pagecast_core::Packet;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

/// Receives an encoder's packets.
pub trait PacketSender: Send + 'static {
    /// Sends one packet and returns the outcome.
    fn send_packet(&mut self, packet: Packet) -> SendOutcome;
}

/// Outcome of sending a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendOutcome {
    /// The packet was queued.
    Sent,
    /// The queue was full and the packet was dropped. Later packets may be sent.
    Lost,
    /// The receiver is gone.
    Closed,
}

/// For files and pushes: blocks while the queue is full, which is short as [`fanout`](crate::fanout) never
/// blocks. Meanwhile ticks and samples queue up; beyond that, damage is merged into later ticks and samples
/// become silence.
impl PacketSender for SyncSender<Packet> {
    fn send_packet(&mut self, packet: Packet) -> SendOutcome {
        if self.send(packet).is_ok() { SendOutcome::Sent } else { SendOutcome::Closed }
    }
}

/// For rooms: never blocks. A packet that finds the queue full would be too late anyway.
impl PacketSender for Sender<Packet> {
    fn send_packet(&mut self, packet: Packet) -> SendOutcome {
        match self.try_send(packet) {
            Ok(()) => SendOutcome::Sent,
            Err(TrySendError::Full(_)) => SendOutcome::Lost,
            Err(TrySendError::Closed(_)) => SendOutcome::Closed,
        }
    }
}

/// Drops video packets that cannot be decoded: everything from a lost packet to the next keyframe.
#[derive(Debug, Default)]
pub(super) struct KeyframeFilter {
    awaiting_keyframe: bool,
}

impl KeyframeFilter {
    /// Sends a packet, or drops it as lost.
    pub(super) fn send(&mut self, packet: Packet, out: &mut dyn PacketSender) -> SendOutcome {
        if self.awaiting_keyframe && !packet.keyframe {
            return SendOutcome::Lost;
        }
        let outcome = out.send_packet(packet);
        self.awaiting_keyframe = outcome == SendOutcome::Lost;
        outcome
    }
}

#[cfg(test)]
mod tests {
    use pagecast_core::{MediaTime, Track};
    use tokio::sync::mpsc::channel;

    use super::*;

    fn packet(at: i64, keyframe: bool) -> Packet {
        let (track, time) = (Track::Video, MediaTime(at));
        Packet { track, data: [].into(), pts: time, dts: time, duration: MediaTime(1), keyframe }
    }

    #[test]
    fn a_loss_is_followed_by_a_keyframe() {
        let (mut sender, mut packets) = channel(2);
        let mut filter = KeyframeFilter::default();
        let mut send = |at, keyframe| filter.send(packet(at, keyframe), &mut sender);
        assert_eq!(
            [send(0, true), send(1, false), send(2, false)],
            [SendOutcome::Sent, SendOutcome::Sent, SendOutcome::Lost]
        );
        let mut got = vec![packets.try_recv().unwrap().pts.0];
        assert_eq!(
            [send(3, false), send(4, true), send(5, true)],
            [SendOutcome::Lost, SendOutcome::Sent, SendOutcome::Lost]
        );
        while let Ok(packet) = packets.try_recv() {
            got.push(packet.pts.0);
        }
        assert_eq!(
            [send(6, false), send(7, true), send(8, false)],
            [SendOutcome::Lost, SendOutcome::Sent, SendOutcome::Sent]
        );
        drop(sender);
        while let Some(packet) = packets.blocking_recv() {
            got.push(packet.pts.0);
        }
        assert_eq!(got, [0, 1, 4, 7, 8]);
    }

    #[test]
    fn a_closed_channel_is_reported() {
        let (mut sender, packets) = channel(1);
        drop(packets);
        assert_eq!(sender.send_packet(packet(0, true)), SendOutcome::Closed);
        let (mut sender, packets) = std::sync::mpsc::sync_channel(1);
        drop(packets);
        assert_eq!(sender.send_packet(packet(0, true)), SendOutcome::Closed);
    }
}
