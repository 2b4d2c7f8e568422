//! The sound card without its sockets. Sans-IO: [`PulseServer::handle`] takes bytes of clients,
//! [`PulseServer::poll`] returns samples, and [`PulseServer::pending_output`] has the bytes for a client.
//!
//! Both first mix everything up to `now`, so that replies describe that moment, and changes take effect at
//! that sample.

use std::collections::{BTreeMap, VecDeque};
use std::time::SystemTime;

use pagecast_core::{HostTime, Samples};
use pulseaudio::protocol::{
    ChannelVolume, Command, ProtocolError, PulseError, SubscriptionEventFacility as Facility,
    SubscriptionEventType as Change,
};

use super::client::{Client, Message};
use super::mix::{self, Mixer};
use super::stream::{Stream, StreamEvent};
pub use super::wire::ProtocolViolation;
use super::wire::{self, Seek};
use crate::av_sync::MediaElementDelay;

/// Most connections at a time: Chromium opens one, its audio tests a second. When full, further connections
/// are closed.
pub const MAX_CLIENTS: usize = 16;
/// Most streams of all clients at a time: Chromium opens at most 50. When full, further streams are refused.
pub const MAX_STREAMS: usize = 64;
/// Tag of the last command that the protocol defines.
const MAX_COMMAND_TAG: u32 = 104;

/// Input of the [`PulseServer`].
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// A client has connected. Its id is that of [`PulseServer::free_client_id`].
    Connected(u32),
    /// A client has disconnected.
    Disconnected(u32),
    /// A client has sent these bytes.
    Received {
        /// Id of the client.
        client: u32,
        /// The bytes, in pieces of any size.
        bytes: &'a [u8],
        /// Wall clock, for latency reports.
        wall: SystemTime,
    },
    /// A client was sent so many bytes of its pending output.
    Sent {
        /// Id of the client.
        client: u32,
        /// Number of bytes.
        bytes: usize,
        /// Wall clock, for commands that waited for this.
        wall: SystemTime,
    },
    /// The capture starts: sample 0 is heard at this time.
    StartCapture {
        /// Time of sample 0.
        origin: HostTime,
    },
}

/// Output of the [`PulseServer`].
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Samples that are complete, in order.
    Samples(Samples),
    /// Close the connection of a client, which is removed already.
    Disconnect {
        /// Id of the client.
        client: u32,
        /// What the client did.
        reason: ProtocolViolation,
    },
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
    outputs: VecDeque<Output>,
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
            outputs: VecDeque::new(),
            next_client: 0,
            next_stream: 0,
            underruns: 0,
            skipped_samples: 0,
        }
    }

    /// Id for the next client; `None` if there are [`MAX_CLIENTS`].
    #[must_use]
    pub fn free_client_id(&self) -> Option<u32> {
        let mut next = self.next_client;
        (self.clients.len() < MAX_CLIENTS).then(|| next_free_index(&self.clients, &mut next))
    }

    /// Processes an input at time `now`.
    pub fn handle(&mut self, now: HostTime, input: Input<'_>) {
        self.advance(now);
        match input {
            Input::Connected(id) => {
                self.next_client = index_after(id);
                self.clients.insert(id, Client::new());
                self.notify_subscribers(Facility::Client, Change::New, id);
            }
            Input::Disconnected(id) => self.remove_client(id),
            Input::Received { client, bytes, wall } => self.receive(client, bytes, wall),
            Input::Sent { client, bytes, wall } => {
                if let Some(client) = self.clients.get_mut(&client) {
                    client.consume_output(bytes);
                }
                // Handles commands that waited because too much output was pending.
                self.receive(client, &[], wall);
            }
            Input::StartCapture { origin } => self.mixer.handle(now, mix::Input::StartCapture { origin }),
        }
        self.update_mixer(now);
    }

    /// Returns the next output. After the last one, everything up to `now` is mixed.
    pub fn poll(&mut self, now: HostTime) -> Option<Output> {
        self.advance(now);
        let overflowed = self.clients.iter().find(|(_, client)| client.has_overflowed());
        if let Some((&client, _)) = overflowed {
            self.remove_client(client);
            let reason = ProtocolViolation::TooManyUnreadReplies;
            self.outputs.push_back(Output::Disconnect { client, reason });
        }
        self.outputs.pop_front()
    }

    /// Latest time for the next [`PulseServer::poll`].
    #[must_use]
    pub fn deadline(&self) -> Option<HostTime> {
        self.mixer.deadline()
    }

    /// Whether more should be read from the client; false while too much of its output is pending.
    #[must_use]
    pub fn wants_input(&self, id: u32) -> bool {
        self.clients.get(&id).is_some_and(Client::is_below_high_water)
    }

    /// Bytes to send to the client.
    #[must_use]
    pub fn pending_output(&self, id: u32) -> &[u8] {
        self.clients.get(&id).map_or(&[], Client::pending_output)
    }

    /// Whether the capture has started.
    #[must_use]
    pub fn is_capturing(&self) -> bool {
        self.mixer.is_capturing()
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

    /// Mixes everything up to `now`.
    fn advance(&mut self, now: HostTime) {
        while let Some(output) = self.mixer.poll(now) {
            match output {
                mix::Output::MixBlock(n) => {
                    self.mix(n);
                    self.update_mixer(now);
                }
                mix::Output::Samples(samples) => self.outputs.push_back(Output::Samples(samples)),
                mix::Output::Skipped(n) => {
                    self.streams.values_mut().for_each(Stream::clear_late_frames);
                    self.skipped_samples += n as u64;
                    self.update_mixer(now);
                }
                mix::Output::PeriodPassed => self.request_data(),
            }
        }
    }

    /// Mixes all streams into the last `n` samples.
    fn mix(&mut self, n: usize) {
        let gain = self.gain();
        let out = self.mixer.last_mixed(n);
        for (index, stream) in &mut self.streams {
            stream.render(out, gain, &mut self.events);
            self.underruns +=
                self.events.iter().filter(|e| matches!(e, StreamEvent::Underflow(_))).count() as u64;
            if let Some(client) = self.clients.get_mut(&stream.owner) {
                client.send_events(*index, self.events.drain(..));
            }
            self.events.clear();
        }
    }

    /// Tells the mixer whether streams play, and how late they are.
    fn update_mixer(&mut self, now: HostTime) {
        let active = self.streams.values().any(Stream::is_active);
        let held = self.streams.values().map(Stream::late_frames).max().unwrap_or(0);
        self.mixer.handle(now, mix::Input::Streams { active, held });
    }

    /// Requests data for all streams.
    fn request_data(&mut self) {
        for (index, stream) in &mut self.streams {
            stream.request_data(&mut self.events);
            if let Some(client) = self.clients.get_mut(&stream.owner) {
                client.send_events(*index, self.events.drain(..));
            }
            self.events.clear();
        }
    }

    /// Handles bytes from a client; disconnects it if it violates the protocol.
    fn receive(&mut self, id: u32, bytes: &[u8], wall: SystemTime) {
        if let Err(reason) = self.try_receive(id, bytes, wall) {
            self.remove_client(id);
            self.outputs.push_back(Output::Disconnect { client: id, reason });
        }
    }

    fn try_receive(&mut self, id: u32, bytes: &[u8], wall: SystemTime) -> Result<(), ProtocolViolation> {
        let Some(client) = self.clients.get_mut(&id) else { return Ok(()) };
        let mut reader = std::mem::take(&mut client.input);
        reader.push(bytes);
        while self.clients.get(&id).is_some_and(Client::is_below_high_water) {
            match reader.next()? {
                None => break,
                Some(Message::Command(payload)) => self.receive_command(id, payload, wall)?,
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

    /// Removes a client and its streams.
    fn remove_client(&mut self, id: u32) {
        let streams: Vec<u32> = self.streams.iter().filter(|(_, s)| s.owner == id).map(|(i, _)| *i).collect();
        streams.into_iter().for_each(|stream| self.remove_stream(stream));
        if self.clients.remove(&id).is_some() {
            self.notify_subscribers(Facility::Client, Change::Removed, id);
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

    fn gain(&self) -> [f32; 2] {
        match self.volume.channels() {
            [l, r] if !self.muted => [l.to_linear(), r.to_linear()],
            _ => [0.0; 2],
        }
    }

    fn receive_command(
        &mut self,
        id: u32,
        payload: &[u8],
        wall: SystemTime,
    ) -> Result<(), ProtocolViolation> {
        let (tag, seq) = wire::validate_tagstruct(payload)?;
        let version = self.clients.get(&id).map_or(0, |c| c.version);
        let mut rest = payload;
        let done = match Command::read_tag_prefixed(&mut rest, version) {
            // Unexpected replies are ignored: an error could cause an endless exchange.
            Ok((_, Command::Error(_) | Command::Reply)) => return Ok(()),
            Ok((_, command)) => self.handle_command(id, seq, command, wall),
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

/// The next unused index.
fn next_free_index<T>(used: &BTreeMap<u32, T>, next: &mut u32) -> u32 {
    loop {
        let index = *next;
        *next = index_after(index);
        if !used.contains_key(&index) {
            return index;
        }
    }
}

/// The index after another one. `u32::MAX` means "none" in the protocol.
fn index_after(index: u32) -> u32 {
    if index >= u32::MAX - 1 { 0 } else { index + 1 }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
