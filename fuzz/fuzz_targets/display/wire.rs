//! The Wayland wire format: object, opcode and length, then arguments, in words of the host's order.

use std::io::{ErrorKind, IoSlice, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// A connection: what is to be sent, and what was heard.
pub(crate) struct Wire {
    stream: UnixStream,
    out: Vec<u8>,
    fds: Vec<OwnedFd>,
    heard: Vec<u8>,
    /// The display hung up.
    pub(crate) closed: bool,
}

/// What the display told: object, opcode, arguments.
pub(crate) struct Event {
    pub(crate) object: u32,
    pub(crate) opcode: u32,
    pub(crate) arguments: Vec<u8>,
}

impl Wire {
    pub(crate) fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).expect("the display listens");
        stream.set_read_timeout(Some(Duration::from_millis(20))).expect("a time is set");
        stream.set_write_timeout(Some(Duration::from_secs(5))).expect("a time is set");
        Self { stream, out: Vec::new(), fds: Vec::new(), heard: Vec::new(), closed: false }
    }

    /// Adds a request.
    pub(crate) fn request(&mut self, object: u32, opcode: u32, arguments: &[u8]) {
        let size = u32::try_from(arguments.len() + 8).unwrap_or(u32::MAX);
        self.out.extend(object.to_ne_bytes());
        self.out.extend((size << 16 | opcode).to_ne_bytes());
        self.out.extend(arguments);
    }

    /// Adds bytes as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.out.extend(bytes);
    }

    /// Adds a descriptor, which travels with the next bytes.
    pub(crate) fn fd(&mut self, fd: OwnedFd) {
        self.fds.push(fd);
    }

    /// Asks for a sign that everything before was dealt with: the object that gives it.
    pub(crate) fn sync(&mut self, id: u32) -> u32 {
        self.request(1, 0, &id.to_ne_bytes());
        id
    }

    /// Sends everything.
    pub(crate) fn flush(&mut self) {
        let mut at = 0;
        while at < self.out.len() && !self.closed {
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let fds: Vec<_> = self.fds.drain(..).collect();
            let borrowed: Vec<_> = fds.iter().take(16).map(AsFd::as_fd).collect();
            if !borrowed.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(&borrowed));
            }
            let sent =
                sendmsg(&self.stream, &[IoSlice::new(&self.out[at..])], &mut control, SendFlags::NOSIGNAL);
            match sent {
                Ok(count) => at += count,
                Err(_) => self.closed = true,
            }
        }
        self.out.clear();
    }

    /// Listens until `object` said something; false if the display hangs up or says nothing for so long.
    pub(crate) fn wait_for(&mut self, object: u32, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while !self.closed && Instant::now() < deadline {
            if self.events().any(|event| event.object == object) {
                return true;
            }
            self.listen();
        }
        false
    }

    /// Takes what was heard.
    pub(crate) fn events(&mut self) -> impl Iterator<Item = Event> + '_ {
        std::iter::from_fn(|| {
            let word = |at: usize| -> Option<u32> {
                let bytes = self.heard.get(at..at + 4)?;
                Some(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            };
            let (object, second) = (word(0)?, word(4)?);
            let size = (second >> 16) as usize;
            assert!(size >= 8, "the display wrote an event of {size} bytes");
            let event = self.heard.get(..size)?;
            let event = Event { object, opcode: second & 0xffff, arguments: event[8..].to_vec() };
            self.heard.drain(..size);
            Some(event)
        })
    }

    /// Reads what is there.
    pub(crate) fn listen(&mut self) {
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) => self.closed = true,
            Ok(count) => self.heard.extend(&bytes[..count]),
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) => {}
            Err(_) => self.closed = true,
        }
    }
}
