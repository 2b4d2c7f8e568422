//! The Wayland wire format: object, opcode and length, then arguments, in words of the host's order.

use std::io::{ErrorKind, IoSlice, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// A connection with its output and input buffers.
pub(crate) struct Wire {
    stream: UnixStream,
    out: Vec<u8>,
    fds: Vec<OwnedFd>,
    received: Vec<u8>,
    /// Whether the display has closed the connection.
    pub(crate) closed: bool,
}

/// An event of the display: object, opcode, arguments.
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
        Self { stream, out: Vec::new(), fds: Vec::new(), received: Vec::new(), closed: false }
    }

    /// Adds a request.
    pub(crate) fn request(&mut self, object: u32, opcode: u32, arguments: &[u8]) {
        let size = u32::try_from(arguments.len() + 8).unwrap_or(u32::MAX);
        self.out.extend(object.to_ne_bytes());
        self.out.extend((size << 16 | opcode).to_ne_bytes());
        self.out.extend(arguments);
    }

    /// Adds raw bytes.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.out.extend(bytes);
    }

    /// Adds a file descriptor, which is sent with the next bytes.
    pub(crate) fn fd(&mut self, fd: OwnedFd) {
        self.fds.push(fd);
    }

    /// Adds `wl_display.sync`, and returns the object of its callback.
    pub(crate) fn sync(&mut self, id: u32) -> u32 {
        self.request(1, 0, &id.to_ne_bytes());
        id
    }

    /// Sends all requests.
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

    /// Waits for an event of `object`. False if the display closes the connection, or after `timeout`.
    pub(crate) fn wait_for(&mut self, object: u32, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        while !self.closed && Instant::now() < deadline {
            if self.events().any(|event| event.object == object) {
                return true;
            }
            self.read();
        }
        false
    }

    /// Takes the received events.
    pub(crate) fn events(&mut self) -> impl Iterator<Item = Event> + '_ {
        std::iter::from_fn(|| {
            let word = |at: usize| -> Option<u32> {
                let bytes = self.received.get(at..at + 4)?;
                Some(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            };
            let (object, second) = (word(0)?, word(4)?);
            let size = (second >> 16) as usize;
            assert!(size >= 8, "the display wrote an event of {size} bytes");
            let event = self.received.get(..size)?;
            let event = Event { object, opcode: second & 0xffff, arguments: event[8..].to_vec() };
            self.received.drain(..size);
            Some(event)
        })
    }

    /// Reads from the connection.
    pub(crate) fn read(&mut self) {
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) => self.closed = true,
            Ok(count) => self.received.extend(&bytes[..count]),
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) => {}
            Err(_) => self.closed = true,
        }
    }
}
