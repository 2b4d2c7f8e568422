//! The sound card without its sockets. Input: bytes of clients, and the time. Output: bytes for clients, and
//! samples.
//!
//! Every call first advances to `now`, so that replies describe that moment, and changes take effect at that
//! sample.

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

/// Most connections at a time: Chromium opens one, its audio tests a second. When full, further connections
/// are closed.
pub const MAX_CLIENTS: usize = 16;
/// Most streams of all clients at a time: Chromium opens at most 50. When full, further streams are refused.
pub const MAX_STREAMS: usize = 64;
/// Longest time that is mixed late. If the process was stalled for longer, the rest is skipped and counted.
const MAX_CATCH_UP_SAMPLES: usize = 5 * SAMPLE_RATE as usize;
/// Most samples that are mixed at once, to bound the memory.
const MIX_BLOCK_SAMPLES: usize = 4800;
/// Tag of the last command that the protocol defines.
const MAX_COMMAND_TAG: u32 = 104;

/// A moment on both clocks that a client sees.
#[derive(Debug, Clone, Copy)]
pub struct Timestamp {
    /// Monotonic clock, on which samples are counted.
    pub monotonic: HostTime,
    /// Wall clock, for latency reports.
    pub wall: SystemTime,
}

/// Counters of the server.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stats {
    /// Number of open streams.
    pub streams_open: u32,
    /// Number of streams that play.
    pub streams_playing: u32,
    /// Number of underruns of all streams, since the start.
    pub underruns: u64,
    /// Samples that were skipped because the process was stalled, since the start.
    pub skipped_samples: u64,
}

/// State of the sound card and its clients.
#[derive(Debug)]
pub struct PulseServer {
    pub(super) clients: BTreeMap<u32, Client>,
    pub(super) streams: BTreeMap<u32, Stream>,
    pub(super) volume: ChannelVolume,
    pub(super) muted: bool,
    /// Events of the stream that is being processed.
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
    /// A server without clients. Media elements are told `media_element_delay` in addition to their latency.
    #[must_use]
    pub fn new(now: HostTime, media_element_delay: MediaElementDelay) -> Self {
        Self {
            media_element_delay,
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

    /// Adds a connection, and returns its id; `None` if there are [`MAX_CLIENTS`].
    pub fn connect(&mut self) -> Option<u32> {
        if self.clients.len() >= MAX_CLIENTS {
            return None;
        }
        let id = next_free_index(&self.clients, &mut self.next_client);
        self.clients.insert(id, Client::new());
        self.notify_subscribers(Facility::Client, Change::New, id);
        Some(id)
    }

    /// Removes a connection and its streams.
    pub fn disconnect(&mut self, id: u32, now: HostTime) {
        self.advance(now);
        let streams: Vec<u32> = self.streams.iter().filter(|(_, s)| s.owner == id).map(|(i, _)| *i).collect();
        streams.into_iter().for_each(|stream| self.remove_stream(stream));
        if self.clients.remove(&id).is_some() {
            self.notify_subscribers(Facility::Client, Change::Removed, id);
        }
    }

    /// Handles bytes from a client. Call it with no bytes after output was sent, to handle commands that had
    /// to wait.
    ///
    /// # Errors
    /// The client violated the protocol, and must be disconnected.
    pub fn receive(&mut self, id: u32, bytes: &[u8], now: Timestamp) -> Result<(), ProtocolViolation> {
        self.advance(now.monotonic);
        let Some(client) = self.clients.get_mut(&id) else { return Ok(()) };
        let mut reader = std::mem::take(&mut client.input);
        reader.push(bytes);
        while self.clients.get(&id).is_some_and(Client::is_below_high_water) {
            match reader.next()? {
                None => break,
                Some(Message::Command(payload)) => self.receive_command(id, payload, now)?,
                Some(Message::Data { channel, seek, offset, data }) => {
                    self.write_block(id, channel, (seek, offset, data));
                }
            }
        }
        match self.clients.get_mut(&id) {
            Some(client) if client.has_overflowed() => return Err(ProtocolViolation::TooManyUnreadReplies),
            Some(client) => client.input = reader,
            None => {}
        }
        Ok(())
    }

    /// Whether more should be read from the client; false while too much of its output is pending.
    #[must_use]
    pub fn wants_input(&self, id: u32) -> bool {
        self.clients.get(&id).is_some_and(Client::is_below_high_water)
    }

    /// Whether so much output is pending that the client must be disconnected.
    #[must_use]
    pub fn has_overflowed(&self, id: u32) -> bool {
        self.clients.get(&id).is_some_and(Client::has_overflowed)
    }

    /// Bytes to send to the client.
    #[must_use]
    pub fn pending_output(&self, id: u32) -> &[u8] {
        self.clients.get(&id).map_or(&[], Client::pending_output)
    }

    /// Removes the first `n` bytes of the pending output.
    pub fn consume_output(&mut self, id: u32, n: usize) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.consume_output(n);
        }
    }

    /// Whether the capture has started.
    #[must_use]
    pub fn is_capturing(&self) -> bool {
        self.mixer.is_capturing()
    }

    /// Starts the capture: sample 0 is the one that is heard at `origin`.
    pub fn start_capture(&mut self, origin: HostTime, now: HostTime) {
        self.advance(now);
        self.mixer.start_capture(origin, now, self.late_samples());
        self.ready_samples.extend(self.mixer.take_samples(self.late_samples()));
    }

    /// Mixes everything up to `now`.
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

    /// Takes the samples that are complete, in order.
    pub fn drain_samples(&mut self) -> std::vec::Drain<'_, Samples> {
        self.ready_samples.drain(..)
    }

    /// Latest time for the next call of [`PulseServer::advance`].
    #[must_use]
    pub fn deadline(&self) -> HostTime {
        self.mixer.deadline(self.streams.values().any(Stream::is_active))
    }

    /// Current counters.
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

    /// Adds a stream, and returns its index; `None` if there are [`MAX_STREAMS`].
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

    /// Calls `act` with a stream of a client, and sends the resulting events. `None` if the client has no
    /// such stream.
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

    /// Sends a subscription event to all clients that have subscribed.
    pub(super) fn notify_subscribers(&mut self, facility: Facility, change: Change, index: u32) {
        self.clients.values_mut().for_each(|client| client.notify(facility, change, index));
    }

    fn with_client_events(&mut self, id: u32, act: impl FnOnce(&mut Client, &mut Vec<StreamEvent>)) {
        match self.clients.get_mut(&id) {
            Some(client) => act(client, &mut self.events),
            None => self.events.clear(),
        }
    }

    fn write_block(&mut self, id: u32, channel: u32, block: (Seek, i64, &[u8])) {
        let gain = self.gain();
        // A client may still send data for a stream that was just removed.
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

    /// Number of mixed samples that may still change, because a stream is late.
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
            // Unexpected replies are ignored: an error could cause an endless exchange.
            Ok((_, Command::Error(_) | Command::Reply)) => return Ok(()),
            Ok((_, command)) => self.handle_command(id, seq, command, now),
            Err(_) if tag > MAX_COMMAND_TAG => Err(PulseError::Command),
            Err(ProtocolError::Unimplemented(..)) => Err(PulseError::NotSupported),
            Err(_) => Err(PulseError::Protocol),
        };
        if let Err(error) = done
            && let Some(client) = self.clients.get_mut(&id)
        {
            tracing::debug!(client = id, tag, ?error, "sound command refused");
            client.reply_error(seq, error);
        }
        Ok(())
    }
}

/// The next unused index. `u32::MAX` means "none" in the protocol.
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
