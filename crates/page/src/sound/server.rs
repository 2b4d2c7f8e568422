//! The whole sound card without its sockets: bytes of clients and moments go in, bytes for clients and samples come out.
//!
//! Every call brings the card up to `now` before it does anything else, so whatever a client asks is answered with the truth
//! of that moment, and whatever it changes takes effect at that sample.

use std::collections::BTreeMap;
use std::time::SystemTime;

use pagecast_core::{HostTime, SAMPLE_RATE, Samples};
use pulseaudio::protocol::{
    ChannelVolume, Command, ProtocolError, PulseError, SubscriptionEventFacility as Facility,
    SubscriptionEventType as Change,
};

use super::client::{Client, Message};
use super::mix::Mixer;
use super::stream::{Stream, StreamEvent};
use super::wire::{self, ProtocolViolation, Seek};
use crate::av_sync::MediaElementDelay;

/// Connections at once; more are closed at once. Chromium opens one, its audio tests a second.
pub const MAX_CLIENTS: usize = 16;
/// Streams of all clients at once; more are refused. Chromium opens at most 50.
pub const MAX_STREAMS: usize = 64;
/// Longest time that is mixed late; if the process stood still for longer, the rest is left out and counted.
const MAX_CATCH_UP_SAMPLES: usize = 5 * SAMPLE_RATE as usize;
/// Samples mixed in one go.
const MIX_BLOCK_SAMPLES: usize = 4800;
/// The last command that the protocol defines.
const MAX_COMMAND_TAG: u32 = 104;

/// One moment, on both clocks that a client sees.
#[derive(Debug, Clone, Copy)]
pub struct Timestamp {
    /// What samples are counted on.
    pub monotonic: HostTime,
    /// What latencies are reported on.
    pub wall: SystemTime,
}

/// What the sound card has to say about itself.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stats {
    /// Streams that exist.
    pub streams_open: u32,
    /// Streams that take samples.
    pub streams_playing: u32,
    /// Times a stream had nothing to play, since the start.
    pub underruns: u64,
    /// Samples that were left out because the process stood still, since the start.
    pub skipped_samples: u64,
}

/// The sound card.
#[derive(Debug)]
pub struct PulseServer {
    pub(super) clients: BTreeMap<u32, Client>,
    pub(super) streams: BTreeMap<u32, Stream>,
    pub(super) volume: ChannelVolume,
    pub(super) muted: bool,
    /// Events of the stream that is being served.
    pub(super) events: Vec<StreamEvent>,
    pub(super) media_element_delay: MediaElementDelay,
    mixer: Mixer,
    ready_samples: Vec<Samples>,
    next_client: u32,
    next_stream: u32,
    underruns: u64,
    skipped_samples: u64,
}

impl PulseServer {
    /// A sound card that nobody is connected to. Media elements are told that they are heard `player_delay` later than
    /// they are.
    #[must_use]
    pub fn new(now: HostTime, player_delay: MediaElementDelay) -> Self {
        Self {
            media_element_delay: player_delay,
            clients: BTreeMap::new(),
            streams: BTreeMap::new(),
            volume: ChannelVolume::norm(2),
            muted: false,
            events: Vec::new(),
            mixer: Mixer::new(now),
            ready_samples: Vec::new(),
            next_client: 0,
            next_stream: 0,
            underruns: 0,
            skipped_samples: 0,
        }
    }

    /// A new connection. `None` when there are [`MAX_CLIENTS`].
    pub fn connect(&mut self) -> Option<u32> {
        if self.clients.len() >= MAX_CLIENTS {
            return None;
        }
        let id = next_free_index(&self.clients, &mut self.next_client);
        self.clients.insert(id, Client::new());
        self.notify_subscribers(Facility::Client, Change::New, id);
        Some(id)
    }

    /// A connection ended, and its streams with it.
    pub fn disconnect(&mut self, id: u32, now: HostTime) {
        self.advance(now);
        let streams: Vec<u32> = self.streams.iter().filter(|(_, s)| s.owner == id).map(|(i, _)| *i).collect();
        streams.into_iter().for_each(|stream| self.remove_stream(stream));
        if self.clients.remove(&id).is_some() {
            self.notify_subscribers(Facility::Client, Change::Removed, id);
        }
    }

    /// Bytes from a client. Give none after it could be sent something, to go on with what it said before.
    ///
    /// # Errors
    /// The client must be disconnected.
    pub fn receive(&mut self, id: u32, bytes: &[u8], now: Timestamp) -> Result<(), ProtocolViolation> {
        self.advance(now.monotonic);
        let Some(client) = self.clients.get_mut(&id) else { return Ok(()) };
        let mut inbox = std::mem::take(&mut client.input);
        inbox.push(bytes);
        while self.clients.get(&id).is_some_and(Client::is_below_high_water) {
            match inbox.next()? {
                None => break,
                Some(Message::Command(payload)) => self.receive_command(id, payload, now)?,
                Some(Message::Data { channel, seek, offset, data }) => {
                    self.write_block(id, channel, (seek, offset, data));
                }
            }
        }
        match self.clients.get_mut(&id) {
            Some(client) if client.has_overflowed() => return Err(ProtocolViolation::TooManyUnreadReplies),
            Some(client) => client.input = inbox,
            None => {}
        }
        Ok(())
    }

    /// Whether more should be read from the client: not while it does not read itself.
    #[must_use]
    pub fn wants_input(&self, id: u32) -> bool {
        self.clients.get(&id).is_some_and(Client::is_below_high_water)
    }

    /// Whether the client has left so much unread that it must be disconnected.
    #[must_use]
    pub fn has_overflowed(&self, id: u32) -> bool {
        self.clients.get(&id).is_some_and(Client::has_overflowed)
    }

    /// Bytes to send to the client.
    #[must_use]
    pub fn pending_output(&self, id: u32) -> &[u8] {
        self.clients.get(&id).map_or(&[], Client::pending_output)
    }

    /// The first `n` of them were sent.
    pub fn consume_output(&mut self, id: u32, n: usize) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.consume_output(n);
        }
    }

    /// Whether samples are told.
    #[must_use]
    pub fn is_capturing(&self) -> bool {
        self.mixer.is_capturing()
    }

    /// From now on samples are told; sample 0 is the one heard at `origin`.
    pub fn start_capture(&mut self, origin: HostTime, now: HostTime) {
        self.advance(now);
        self.mixer.start_capture(origin, now, self.late_samples());
        self.ready_samples.extend(self.mixer.take_samples(self.late_samples()));
    }

    /// Plays everything up to `now`.
    pub fn advance(&mut self, now: HostTime) {
        let due = self.mixer.due_samples(now);
        let mut left = due.min(MAX_CATCH_UP_SAMPLES);
        while left > 0 {
            let block = left.min(MIX_BLOCK_SAMPLES);
            self.mix(block);
            left -= block;
        }
        if due > MAX_CATCH_UP_SAMPLES {
            self.streams.values_mut().for_each(Stream::clear_late_frames);
            self.ready_samples.extend(self.mixer.take_samples(0));
            self.mixer.skip(due - MAX_CATCH_UP_SAMPLES);
            self.skipped_samples += (due - MAX_CATCH_UP_SAMPLES) as u64;
        }
        if self.mixer.enter_period() {
            let streams: Vec<(u32, u32)> = self.streams.iter().map(|(i, s)| (s.owner, *i)).collect();
            for (owner, stream) in streams {
                self.with_stream(owner, stream, Stream::request_data);
            }
        }
    }

    /// Samples that are complete, in order.
    pub fn drain_samples(&mut self) -> std::vec::Drain<'_, Samples> {
        self.ready_samples.drain(..)
    }

    /// When [`PulseServer::advance`] should be called at the latest.
    #[must_use]
    pub fn deadline(&self) -> HostTime {
        self.mixer.deadline(self.streams.values().any(Stream::is_active))
    }

    /// The state of things.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Stats {
            streams_open: count(self.streams.len()),
            streams_playing: count(self.streams.values().filter(|s| s.latency().playing).count()),
            underruns: self.underruns,
            skipped_samples: self.skipped_samples,
        }
    }

    /// Takes in a stream; its index, or `None` when there are [`MAX_STREAMS`].
    pub(super) fn add_stream(&mut self, stream: Stream) -> Option<u32> {
        if self.streams.len() >= MAX_STREAMS {
            return None;
        }
        let index = next_free_index(&self.streams, &mut self.next_stream);
        self.streams.insert(index, stream);
        self.notify_subscribers(Facility::SinkInput, Change::New, index);
        Some(index)
    }

    pub(super) fn remove_stream(&mut self, index: u32) {
        if self.streams.remove(&index).is_some() {
            self.notify_subscribers(Facility::SinkInput, Change::Removed, index);
        }
    }

    /// Does something with a stream of a client and tells the client what came of it. `None` if it has no such stream.
    pub(super) fn with_stream<T>(
        &mut self,
        id: u32,
        index: u32,
        act: impl FnOnce(&mut Stream, &mut Vec<StreamEvent>) -> T,
    ) -> Option<T> {
        let stream = self.streams.get_mut(&index).filter(|s| s.owner == id)?;
        let done = act(stream, &mut self.events);
        self.with_client_events(id, |client, events| client.send_events(index, events.drain(..)));
        Some(done)
    }

    /// Tells everyone who wants to know.
    pub(super) fn notify_subscribers(&mut self, of: Facility, what: Change, index: u32) {
        self.clients.values_mut().for_each(|client| client.notify(of, what, index));
    }

    fn with_client_events(&mut self, id: u32, act: impl FnOnce(&mut Client, &mut Vec<StreamEvent>)) {
        match self.clients.get_mut(&id) {
            Some(client) => act(client, &mut self.events),
            None => self.events.clear(),
        }
    }

    fn write_block(&mut self, id: u32, channel: u32, block: (Seek, i64, &[u8])) {
        let gain = self.gain();
        // A client may still send to a stream that is gone: it did not know.
        let Some(stream) = self.streams.get_mut(&channel).filter(|s| s.owner == id) else { return };
        let mixed = self.mixer.last_mixed(stream.late_frames());
        stream.write(block, mixed, gain, &mut self.events);
        self.with_client_events(id, |client, events| client.send_events(channel, events.drain(..)));
    }

    fn mix(&mut self, n: usize) {
        let gain = self.gain();
        let out = self.mixer.extend(n);
        for (index, stream) in &mut self.streams {
            stream.render(out, gain, &mut self.events);
            self.underruns +=
                self.events.iter().filter(|e| matches!(e, StreamEvent::Underflow(_))).count() as u64;
            if let Some(client) = self.clients.get_mut(&stream.owner) {
                client.send_events(*index, self.events.drain(..));
            }
            self.events.clear();
        }
        self.ready_samples.extend(self.mixer.take_samples(self.late_samples()));
    }

    /// Mixed samples that may still change, because some stream is late.
    fn late_samples(&self) -> usize {
        self.streams.values().map(Stream::late_frames).max().unwrap_or(0)
    }

    fn gain(&self) -> [f32; 2] {
        match self.volume.channels() {
            [l, r] if !self.muted => [l.to_linear(), r.to_linear()],
            _ => [0.0; 2],
        }
    }

    fn receive_command(&mut self, id: u32, payload: &[u8], now: Timestamp) -> Result<(), ProtocolViolation> {
        let (tag, seq) = wire::validate_tagstruct(payload)?;
        let version = self.clients.get(&id).map_or(0, |c| c.version);
        let mut rest = payload;
        let done = match Command::read_tag_prefixed(&mut rest, version) {
            // Answers to nothing we asked: an error in return would only be answered again.
            Ok((_, Command::Error(_) | Command::Reply)) => return Ok(()),
            Ok((_, command)) => self.handle_command(id, seq, command, now),
            Err(_) if tag > MAX_COMMAND_TAG => Err(PulseError::Command),
            Err(ProtocolError::Unimplemented(..)) => Err(PulseError::NotSupported),
            Err(_) => Err(PulseError::Protocol),
        };
        if let Err(error) = done
            && let Some(client) = self.clients.get_mut(&id)
        {
            tracing::debug!(client = id, tag, ?error, "refused what the browser asked of the sound card");
            client.reply_error(seq, error);
        }
        Ok(())
    }
}

/// The next index that is not in use. `u32::MAX` means "none" in the protocol.
fn next_free_index<T>(used: &BTreeMap<u32, T>, next: &mut u32) -> u32 {
    loop {
        let index = *next;
        *next = if index == u32::MAX - 1 { 0 } else { index + 1 };
        if !used.contains_key(&index) {
            return index;
        }
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
