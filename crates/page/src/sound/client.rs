//! One connection: what has come in and is not understood yet, and what is to go out.

use pulseaudio::protocol::{
    self, Command, CommandReply, MIN_VERSION, Prop, Props, PulseError, Request, SubscriptionEvent,
    SubscriptionEventFacility, SubscriptionEventType, SubscriptionMask, Underflow,
};

use super::stream::Event;
use super::wire::{HEADER_LEN, Header, Seek, Violation};

/// Unread replies above which nothing more is read from a client, until it reads.
const OUTBOX_PAUSE: usize = 64 * 1024;
/// Unread replies and events above which a client is cut off. One answer is never longer.
const OUTBOX_MAX: usize = 4 * 1024 * 1024;
/// Longest property list of a client or stream; a longer one is refused. libpulse sends about one kilobyte.
pub(super) const MAX_PROPS_LEN: usize = 8 * 1024;

/// The sequence number of what the server says on its own.
const UNASKED: u32 = u32::MAX;

/// A connection.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) version: u16,
    pub(super) authorised: bool,
    pub(super) props: Props,
    pub(super) interests: SubscriptionMask,
    pub(super) inbox: Inbox,
    outbox: Vec<u8>,
    sent: usize,
}

impl Client {
    pub(super) fn new() -> Self {
        Self {
            version: MIN_VERSION,
            authorised: false,
            props: Props::new(),
            interests: SubscriptionMask::empty(),
            inbox: Inbox::default(),
            outbox: Vec::new(),
            sent: 0,
        }
    }

    /// What the client calls itself.
    pub(super) fn name(&self) -> std::ffi::CString {
        text(&self.props, Prop::ApplicationName)
    }

    pub(super) fn outgoing(&self) -> &[u8] {
        &self.outbox[self.sent..]
    }

    pub(super) fn has_sent(&mut self, n: usize) {
        self.sent = (self.sent + n).min(self.outbox.len());
        if self.sent == self.outbox.len() {
            self.outbox.clear();
            self.sent = 0;
        }
    }

    /// Whether the client reads what it is sent, so that more may be asked of us.
    pub(super) fn keeps_up(&self) -> bool {
        self.outgoing().len() < OUTBOX_PAUSE
    }

    pub(super) fn is_lost(&self) -> bool {
        self.outgoing().len() > OUTBOX_MAX
    }

    pub(super) fn reply<R: CommandReply>(&mut self, seq: u32, reply: &R) {
        let version = self.version;
        self.post(|out| protocol::write_reply_message(out, seq, reply, version));
    }

    pub(super) fn ack(&mut self, seq: u32) {
        self.post(|out| protocol::write_ack_message(out, seq));
    }

    pub(super) fn refuse(&mut self, seq: u32, error: PulseError) {
        self.post(|out| protocol::write_error(out, seq, &error));
    }

    /// Tells what happened to a stream of this client.
    pub(super) fn tell(&mut self, stream: u32, events: impl Iterator<Item = Event>) {
        for event in events {
            let command = match event {
                Event::Started => Command::Started(stream),
                Event::Underflow(offset) => Command::Underflow(Underflow { channel: stream, offset }),
                Event::Overflow => Command::Overflow(stream),
                Event::Request(length) => Command::Request(Request { channel: stream, length }),
                Event::Drained(seq) => {
                    self.ack(seq);
                    continue;
                }
            };
            self.send(&command);
        }
    }

    /// Tells that something came, changed or went, if the client wants to know.
    pub(super) fn notify(&mut self, of: SubscriptionEventFacility, what: SubscriptionEventType, index: u32) {
        let interest = SubscriptionMask::from_bits_truncate(1 << of as u32);
        if self.interests.intersects(interest) {
            let event = SubscriptionEvent { event_facility: of, event_type: what, index: Some(index) };
            self.send(&Command::SubscribeEvent(event));
        }
    }

    fn send(&mut self, command: &Command) {
        let version = self.version;
        self.post(|out| protocol::write_command_message(out, UNASKED, command, version));
    }

    fn post(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Result<(), protocol::ProtocolError>) {
        if self.is_lost() {
            return;
        }
        let len = self.outbox.len();
        if let Err(error) = write(&mut self.outbox) {
            self.outbox.truncate(len);
            tracing::error!(%error, "an answer to the browser could not be written");
        }
    }
}

/// Whether a property list is short enough to be kept.
pub(super) fn is_short(props: &Props) -> bool {
    props.iter().map(|(key, value)| key.to_bytes().len() + value.len() + 16).sum::<usize>() <= MAX_PROPS_LEN
}

/// A property as text, empty if it is missing or malformed.
pub(super) fn text(props: &Props, prop: Prop) -> std::ffi::CString {
    let bytes = props.get(prop).unwrap_or_default();
    std::ffi::CStr::from_bytes_until_nul(bytes).map(Into::into).unwrap_or_default()
}

/// A message, or as much as is there of a block of samples.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    Command(&'a [u8]),
    Data { channel: u32, seek: Seek, offset: i64, data: &'a [u8] },
}

/// Cuts bytes into messages. It holds at most one command and what was pushed last.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    used: usize,
    block: Option<Block>,
}

#[derive(Debug, Clone, Copy)]
struct Block {
    channel: u32,
    seek: Seek,
    offset: i64,
    left: usize,
}

impl Inbox {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.used);
        self.used = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next message that has come in.
    pub(super) fn next(&mut self) -> Result<Option<Message<'_>>, Violation> {
        if self.block.is_none() {
            let Some(raw) = self.bytes[self.used..].first_chunk::<HEADER_LEN>() else { return Ok(None) };
            match Header::parse(raw)? {
                Header::Command { len } => {
                    let from = self.used + HEADER_LEN;
                    let Some(payload) = self.bytes.get(from..from + len) else { return Ok(None) };
                    self.used = from + len;
                    return Ok(Some(Message::Command(payload)));
                }
                Header::Block { channel, seek, offset, len } => {
                    self.used += HEADER_LEN;
                    self.block = Some(Block { channel, seek, offset, left: len });
                }
            }
        }
        let Some(block) = self.block else { return Ok(None) };
        let here = block.left.min(self.bytes.len() - self.used);
        if here == 0 && block.left > 0 {
            return Ok(None);
        }
        let data = self.used..self.used + here;
        self.used += here;
        let left = block.left - here;
        // The rest of a block follows its beginning, wherever that went.
        self.block = (left > 0).then_some(Block { seek: Seek::Write, offset: 0, left, ..block });
        let Block { channel, seek, offset, .. } = block;
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
        fn cuts_do_not_matter(cuts in proptest::collection::vec(1_usize..60, 1..40)) {
            let (bytes, mut inbox) = (messages(), Inbox::default());
            let (mut rest, mut commands, mut data, mut empty) = (bytes.as_slice(), 0, 0, 0);
            for cut in cuts.into_iter().chain(std::iter::repeat_n(bytes.len(), 1)) {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                inbox.push(now);
                rest = later;
                while let Some(message) = inbox.next().unwrap() {
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
    fn one_who_does_not_read_is_given_up() {
        let mut client = Client::new();
        (0..1_000_000).for_each(|seq| client.ack(seq));
        assert!(client.is_lost() && client.outgoing().len() < OUTBOX_MAX + 100);
        client.has_sent(usize::MAX);
        assert!(client.keeps_up() && !client.is_lost());
    }
}
