//! Reads the browser's messages until the browser exits.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::process::Child;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Read end of a pipe from the browser. It ends when the browser's main process exits, even if helper
/// processes, which hold the pipe too, keep it open.
#[derive(Debug)]
pub(super) struct BrowserPipe {
    pipe: File,
    /// Readable once the process has exited. `None` if the system has no such descriptors; then the pipe ends
    /// with its last writer.
    exit: Option<OwnedFd>,
}

impl BrowserPipe {
    pub(super) fn new(pipe: OwnedFd, browser: &Child) -> Self {
        let exit = pidfd_open(Pid::from_child(browser), PidfdFlags::empty());
        let exit = exit.inspect_err(|error| tracing::debug!(%error, "process descriptor not available"));
        Self { pipe: File::from(pipe), exit: exit.ok() }
    }
}

impl Read for BrowserPipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(exit) = &self.exit else { return self.pipe.read(buffer) };
        loop {
            let mut fds = [PollFd::new(&self.pipe, PollFlags::IN), PollFd::new(exit, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let [message, exited] = fds.map(|fd| !fd.revents().is_empty());
            // What the browser wrote before its exit is read first.
            if message {
                return self.pipe.read(buffer);
            }
            if exited {
                return Ok(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn the_pipe_ends_with_the_main_process_while_a_helper_holds_it() {
        let (read, write) = crate::child::pipe().unwrap();
        #[expect(clippy::disallowed_methods, reason = "its process group is killed below")]
        let mut child = Command::new("sh")
            .args(["-c", "sleep 60 & echo last words"])
            .stdout(Stdio::from(write))
            .process_group(0)
            .spawn()
            .unwrap();
        let (started, mut text) = (Instant::now(), String::new());
        let mut pipe = BrowserPipe::new(read, &child);
        assert!(pipe.exit.is_some());
        pipe.read_to_string(&mut text).unwrap();
        assert_eq!(text, "last words\n");
        assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
        rustix::process::kill_process_group(Pid::from_child(&child), rustix::process::Signal::KILL).unwrap();
        child.wait().unwrap();
    }
}
