//! Where packets go.

use std::sync::mpsc::SyncSender;

use pagecast_core::Packet;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

/// Takes an encoder's packets.
pub trait PacketSender: Send + 'static {
    /// Takes one, and says what became of it.
    fn send_packet(&mut self, packet: Packet) -> SendOutcome;
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendOutcome {
    /// It is on its way.
    Sent,
    /// There was no room for it. Later ones may find some.
    Lost,
    /// Nobody takes packets any more.
    Closed,
}

/// For files and pushes: blocks while the taker is behind, which [`fanout`](crate::fanout) never is for long. Then ticks and samples
/// queue up, and beyond that the display keeps its changes and samples become silence.
impl PacketSender for SyncSender<Packet> {
    fn send_packet(&mut self, packet: Packet) -> SendOutcome {
        if self.send(packet).is_ok() { SendOutcome::Sent } else { SendOutcome::Closed }
    }
}

/// For rooms: never blocks. What finds no room would be late anyway.
impl PacketSender for Sender<Packet> {
    fn send_packet(&mut self, packet: Packet) -> SendOutcome {
        match self.try_send(packet) {
            Ok(()) => SendOutcome::Sent,
            Err(TrySendError::Full(_)) => SendOutcome::Lost,
            Err(TrySendError::Closed(_)) => SendOutcome::Closed,
        }
    }
}

/// Keeps pictures that cannot be decoded from a taker that lost one: after a loss nothing passes up to the next keyframe.
#[derive(Debug, Default)]
pub(super) struct KeyframeFilter {
    awaiting_keyframe: bool,
}

impl KeyframeFilter {
    /// Hands on a picture, or leaves it out as lost.
    pub(super) fn send(&mut self, packet: Packet, out: &mut dyn PacketSender) -> SendOutcome {
        if self.awaiting_keyframe && !packet.keyframe {
            return SendOutcome::Lost;
        }
        let took = out.send_packet(packet);
        self.awaiting_keyframe = took == SendOutcome::Lost;
        took
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
    fn after_a_loss_it_goes_on_with_a_keyframe() {
        let (mut sender, mut packets) = channel(2);
        let mut chain = KeyframeFilter::default();
        let mut pass = |at, keyframe| chain.send(packet(at, keyframe), &mut sender);
        assert_eq!(
            [pass(0, true), pass(1, false), pass(2, false)],
            [SendOutcome::Sent, SendOutcome::Sent, SendOutcome::Lost]
        );
        let mut got = vec![packets.try_recv().unwrap().pts.0];
        assert_eq!(
            [pass(3, false), pass(4, true), pass(5, true)],
            [SendOutcome::Lost, SendOutcome::Sent, SendOutcome::Lost]
        );
        while let Ok(packet) = packets.try_recv() {
            got.push(packet.pts.0);
        }
        assert_eq!(
            [pass(6, false), pass(7, true), pass(8, false)],
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
