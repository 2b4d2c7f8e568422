//! Where packets go.

use std::sync::mpsc::SyncSender;

use pagecast_core::Packet;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

/// Takes an encoder's packets.
pub trait Out: Send + 'static {
    /// Takes one, and says what became of it.
    fn take(&mut self, packet: Packet) -> Took;
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Took {
    /// It is on its way.
    Yes,
    /// There was no room for it. Later ones may find some.
    Lost,
    /// Nobody takes packets any more.
    Over,
}

/// For files and pushes: blocks while the taker is behind, which [`fanout`](crate::fanout) never is for long. Then ticks and samples
/// queue up, and beyond that the display keeps its changes and samples become silence.
impl Out for SyncSender<Packet> {
    fn take(&mut self, packet: Packet) -> Took {
        if self.send(packet).is_ok() { Took::Yes } else { Took::Over }
    }
}

/// For rooms: never blocks. What finds no room would be late anyway.
impl Out for Sender<Packet> {
    fn take(&mut self, packet: Packet) -> Took {
        match self.try_send(packet) {
            Ok(()) => Took::Yes,
            Err(TrySendError::Full(_)) => Took::Lost,
            Err(TrySendError::Closed(_)) => Took::Over,
        }
    }
}

/// Keeps pictures that cannot be decoded from a taker that lost one: after a loss nothing passes up to the next keyframe.
#[derive(Debug, Default)]
pub(super) struct Chain {
    broken: bool,
}

impl Chain {
    /// Hands on a picture, or leaves it out as lost.
    pub(super) fn pass(&mut self, packet: Packet, out: &mut dyn Out) -> Took {
        if self.broken && !packet.keyframe {
            return Took::Lost;
        }
        let took = out.take(packet);
        self.broken = took == Took::Lost;
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
        let mut chain = Chain::default();
        let mut pass = |at, keyframe| chain.pass(packet(at, keyframe), &mut sender);
        assert_eq!([pass(0, true), pass(1, false), pass(2, false)], [Took::Yes, Took::Yes, Took::Lost]);
        let mut got = vec![packets.try_recv().unwrap().pts.0];
        assert_eq!([pass(3, false), pass(4, true), pass(5, true)], [Took::Lost, Took::Yes, Took::Lost]);
        while let Ok(packet) = packets.try_recv() {
            got.push(packet.pts.0);
        }
        assert_eq!([pass(6, false), pass(7, true), pass(8, false)], [Took::Lost, Took::Yes, Took::Yes]);
        drop(sender);
        while let Some(packet) = packets.blocking_recv() {
            got.push(packet.pts.0);
        }
        assert_eq!(got, [0, 1, 4, 7, 8]);
    }

    #[test]
    fn an_end_is_told() {
        let (mut sender, packets) = channel(1);
        drop(packets);
        assert_eq!(sender.take(packet(0, true)), Took::Over);
        let (mut sender, packets) = std::sync::mpsc::sync_channel(1);
        drop(packets);
        assert_eq!(sender.take(packet(0, true)), Took::Over);
    }
}
