//! State of one client connection: bytes received but not parsed, and bytes to send.

use pulseaudio::protocol::{
    self, Command, CommandReply, MIN_VERSION, Prop, Props, PulseError, Request, SubscriptionEvent,
    SubscriptionEventFacility, SubscriptionEventType, SubscriptionMask, Underflow,
};

use super::stream::StreamEvent;
use super::wire::{HEADER_LEN, Header, ProtocolViolation, Seek};

/// Pending output above which nothing more is read from a client, in bytes.
const OUTPUT_HIGH_WATER_BYTES: usize = 64 * 1024;
/// Pending output above which a client is disconnected, in bytes. A single reply is never longer.
const MAX_OUTPUT_BYTES: usize = 4 * 1024 * 1024;
/// Longest property list of a client or stream, in bytes; a longer one is refused. libpulse sends about one
/// kilobyte.
pub(super) const MAX_PROPLIST_BYTES: usize = 8 * 1024;

/// Sequence number of messages that the server sends on its own.
const EVENT_SEQ: u32 = u32::MAX;

/// A client connection.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) version: u16,
    pub(super) authorised: bool,
    pub(super) props: Props,
    pub(super) subscription: SubscriptionMask,
    pub(super) input: MessageReader,
    output: Vec<u8>,
    sent_bytes: usize,
}

impl Client {
    pub(super) fn new() -> Self {
        Self {
            version: MIN_VERSION,
            authorised: false,
            props: Props::new(),
            subscription: SubscriptionMask::empty(),
            input: MessageReader::default(),
            output: Vec::new(),
            sent_bytes: 0,
        }
    }

    /// Name of the client's application; empty if it has none.
    pub(super) fn name(&self) -> std::ffi::CString {
        prop_text(&self.props, Prop::ApplicationName)
    }

    pub(super) fn pending_output(&self) -> &[u8] {
        &self.output[self.sent_bytes..]
    }

    pub(super) fn consume_output(&mut self, n: usize) {
        self.sent_bytes = (self.sent_bytes + n).min(self.output.len());
        if self.sent_bytes == self.output.len() {
            self.output.clear();
            self.sent_bytes = 0;
        }
    }

    /// Whether so little output is pending that more requests may be read.
    pub(super) fn is_below_high_water(&self) -> bool {
        self.pending_output().len() < OUTPUT_HIGH_WATER_BYTES
    }

    pub(super) fn has_overflowed(&self) -> bool {
        self.pending_output().len() > MAX_OUTPUT_BYTES
    }

    pub(super) fn reply<R: CommandReply>(&mut self, seq: u32, reply: &R) {
        let version = self.version;
        self.append(|out| protocol::write_reply_message(out, seq, reply, version));
    }

    pub(super) fn ack(&mut self, seq: u32) {
        self.append(|out| protocol::write_ack_message(out, seq));
    }

    pub(super) fn reply_error(&mut self, seq: u32, error: PulseError) {
        self.append(|out| protocol::write_error(out, seq, &error));
    }

    /// Sends events of a stream to this client.
    pub(super) fn send_events(&mut self, stream: u32, events: impl Iterator<Item = StreamEvent>) {
        for event in events {
            let command = match event {
                StreamEvent::Started => Command::Started(stream),
                StreamEvent::Underflow(offset) => Command::Underflow(Underflow { channel: stream, offset }),
                StreamEvent::Overflow => Command::Overflow(stream),
                StreamEvent::Request(length) => Command::Request(Request { channel: stream, length }),
                StreamEvent::Drained(seq) => {
                    self.ack(seq);
                    continue;
                }
            };
            self.send(&command);
        }
    }

    /// Sends a subscription event, if the client has subscribed to this facility.
    pub(super) fn notify(
        &mut self,
        facility: SubscriptionEventFacility,
        change: SubscriptionEventType,
        index: u32,
    ) {
        let interest = SubscriptionMask::from_bits_truncate(1 << facility as u32);
        if self.subscription.intersects(interest) {
            let event =
                SubscriptionEvent { event_facility: facility, event_type: change, index: Some(index) };
            self.send(&Command::SubscribeEvent(event));
        }
    }

    fn send(&mut self, command: &Command) {
        let version = self.version;
        self.append(|out| protocol::write_command_message(out, EVENT_SEQ, command, version));
    }

    fn append(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Result<(), protocol::ProtocolError>) {
        if self.has_overflowed() {
            return;
        }
        let len = self.output.len();
        if let Err(error) = write(&mut self.output) {
            self.output.truncate(len);
            tracing::error!(%error, "writing a sound reply failed");
        }
    }
}

/// Whether a property list is at most [`MAX_PROPLIST_BYTES`] long.
pub(super) fn is_proplist_in_limit(props: &Props) -> bool {
    props.iter().map(|(key, value)| key.to_bytes().len() + value.len() + 16).sum::<usize>()
        <= MAX_PROPLIST_BYTES
}

/// A property as text, empty if it is missing or malformed.
pub(super) fn prop_text(props: &Props, prop: Prop) -> std::ffi::CString {
    let bytes = props.get(prop).unwrap_or_default();
    std::ffi::CStr::from_bytes_until_nul(bytes).map(Into::into).unwrap_or_default()
}

/// A command, or the part of a block of samples that has arrived.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    Command(&'a [u8]),
    Data { channel: u32, seek: Seek, offset: i64, data: &'a [u8] },
}

/// Splits bytes into messages. Holds at most one command and the bytes pushed last.
#[derive(Debug, Default)]
pub(super) struct MessageReader {
    bytes: Vec<u8>,
    consumed: usize,
    block: Option<PartialBlock>,
}

#[derive(Debug, Clone, Copy)]
struct PartialBlock {
    channel: u32,
    seek: Seek,
    offset: i64,
    remaining: usize,
}

impl MessageReader {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.consumed);
        self.consumed = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next message; `None` until more bytes are pushed.
    pub(super) fn next(&mut self) -> Result<Option<Message<'_>>, ProtocolViolation> {
        if self.block.is_none() {
            let Some(raw) = self.bytes[self.consumed..].first_chunk::<HEADER_LEN>() else { return Ok(None) };
            match Header::parse(raw)? {
                Header::Command { len } => {
                    let from = self.consumed + HEADER_LEN;
                    let Some(payload) = self.bytes.get(from..from + len) else { return Ok(None) };
                    self.consumed = from + len;
                    return Ok(Some(Message::Command(payload)));
                }
                Header::Block { channel, seek, offset, len } => {
                    self.consumed += HEADER_LEN;
                    self.block = Some(PartialBlock { channel, seek, offset, remaining: len });
                }
            }
        }
        let Some(block) = self.block else { return Ok(None) };
        let here = block.remaining.min(self.bytes.len() - self.consumed);
        if here == 0 && block.remaining > 0 {
            return Ok(None);
        }
        let data = self.consumed..self.consumed + here;
        self.consumed += here;
        let left = block.remaining - here;
        // The rest of a block continues where its beginning was written.
        self.block =
            (left > 0).then_some(PartialBlock { seek: Seek::Write, offset: 0, remaining: left, ..block });
        let PartialBlock { channel, seek, offset, .. } = block;
        Ok(Some(Message::Data { channel, seek, offset, data: &self.bytes[data] }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn messages() -> Vec<u8> {
        let mut bytes = Vec::new();
        protocol::write_command_message(&mut bytes, 1, &Command::GetServerInfo, 35).unwrap();
        protocol::write_memblock(&mut bytes, 5, &[7; 100], 0).unwrap();
        protocol::write_memblock(&mut bytes, 6, &[], 0).unwrap();
        protocol::write_command_message(&mut bytes, 2, &Command::Stat, 35).unwrap();
        bytes
    }

    proptest! {
        #[test]
        fn messages_do_not_depend_on_how_bytes_arrive(cuts in proptest::collection::vec(1_usize..60, 1..40)) {
            let (bytes, mut reader) = (messages(), MessageReader::default());
            let (mut rest, mut commands, mut data, mut empty) = (bytes.as_slice(), 0, 0, 0);
            for cut in cuts.into_iter().chain(std::iter::repeat_n(bytes.len(), 1)) {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                reader.push(now);
                rest = later;
                while let Some(message) = reader.next().unwrap() {
                    match message {
                        Message::Command(_) => commands += 1,
                        Message::Data { channel: 5, data: d, .. } => data += d.len(),
                        Message::Data { channel, .. } => empty += channel,
                    }
                }
            }
            prop_assert_eq!((commands, data, empty), (2, 100, 6));
        }
    }

    #[test]
    fn output_of_a_client_that_does_not_read_is_bounded() {
        let mut client = Client::new();
        (0..1_000_000).for_each(|seq| client.ack(seq));
        assert!(client.has_overflowed() && client.pending_output().len() < MAX_OUTPUT_BYTES + 100);
        client.consume_output(usize::MAX);
        assert!(client.is_below_high_water() && !client.has_overflowed());
    }
}
