//! Opens concatenated files as one libavformat input: an initialization segment and a media segment.
#![expect(unsafe_code, reason = "input of libavformat that its bindings do not wrap")]

use std::ffi::{c_int, c_void};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::ptr;

use ff::ffi;
use ff::format::context::Input;
use ffmpeg_the_third as ff;

/// Size of libavformat's read buffer in bytes.
const BUFFER_BYTES: usize = 64 * 1024;

/// An open input that reads its files once, in order.
pub(super) struct ConcatInput {
    input: Input,
    /// Declared after `input`, so that it is dropped later.
    io: ConcatIo,
}

/// The files and libavformat's I/O context for them.
struct ConcatIo {
    io: *mut ffi::AVIOContext,
    files: *mut FileQueue,
}

struct FileQueue {
    /// Remaining files, the next one last.
    pending: Vec<File>,
    failed: Option<io::Error>,
}

impl ConcatInput {
    /// Opens files that form one fragmented MP4.
    pub(super) fn open(paths: &[&Path]) -> Result<Self, ff::Error> {
        let source = ConcatIo::open(paths).map_err(to_av_error)?;
        // SAFETY: the context is new and uses our `io`, which outlives it; a failed open frees the context.
        let input = unsafe {
            let mut context = ffi::avformat_alloc_context();
            if context.is_null() {
                return Err(to_av_error(io::ErrorKind::OutOfMemory.into()));
            }
            (*context).pb = source.io;
            let format = ffi::av_find_input_format(c"mp4".as_ptr());
            match ffi::avformat_open_input(&raw mut context, ptr::null(), format, ptr::null_mut()) {
                0 => Input::wrap(context),
                error => return Err(error.into()),
            }
        };
        Ok(Self { input, io: source })
    }

    /// The demuxer's input.
    pub(super) fn input(&self) -> &Input {
        &self.input
    }

    /// Decoder configuration (extradata) of all streams, concatenated.
    pub(super) fn extradata(&self) -> Vec<u8> {
        let mut all = Vec::new();
        for stream in self.input.streams() {
            // SAFETY: the stream and its parameters live as long as the input; `extradata_size` is the
            // length.
            unsafe {
                let parameters = &*(*stream.as_ptr()).codecpar;
                let length = usize::try_from(parameters.extradata_size).unwrap_or(0);
                all.extend(length.to_be_bytes());
                if !parameters.extradata.is_null() {
                    all.extend_from_slice(std::slice::from_raw_parts(parameters.extradata, length));
                }
            }
        }
        all
    }

    /// Calls `take` with every packet and the time base of its stream.
    pub(super) fn for_each_packet(
        &mut self,
        mut take: impl FnMut(ff::Rational, ff::Packet) -> Result<(), ff::Error>,
    ) -> Result<(), ff::Error> {
        let bases: Vec<_> = self.input.streams().map(|s| s.time_base()).collect();
        loop {
            let mut packet = ff::Packet::empty();
            match packet.read(&mut self.input) {
                Ok(()) => {}
                Err(ff::Error::Eof) => break,
                Err(error) => return Err(error),
            }
            packet.set_position(-1);
            if let Some(base) = bases.get(packet.stream()) {
                take(*base, packet)?;
            }
        }
        // SAFETY: we own the files, and libav is not running now.
        let failed = unsafe { (*self.io.files).failed.take() };
        failed.map_or(Ok(()), |error| Err(to_av_error(error)))
    }
}

impl ConcatIo {
    fn open(paths: &[&Path]) -> io::Result<Self> {
        let rest = paths.iter().rev().map(File::open).collect::<io::Result<Vec<_>>>()?;
        let files = Box::into_raw(Box::new(FileQueue { pending: rest, failed: None }));
        // SAFETY: libav allocates the buffer, as the context may replace it; `files` lives as long as the
        // context.
        let io = unsafe {
            let buffer = ffi::av_malloc(BUFFER_BYTES).cast::<u8>();
            let size = if buffer.is_null() { 0 } else { BUFFER_BYTES as c_int };
            ffi::avio_alloc_context(buffer, size, 0, files.cast(), Some(read_callback), None, None)
        };
        let source = Self { io, files };
        if io.is_null() { Err(io::ErrorKind::OutOfMemory.into()) } else { Ok(source) }
    }
}

impl Drop for ConcatIo {
    fn drop(&mut self) {
        // SAFETY: the context is no longer used; its current buffer may differ from the one it was created
        // with.
        unsafe {
            if !self.io.is_null() {
                ffi::av_freep((&raw mut (*self.io).buffer).cast());
                ffi::avio_context_free(&raw mut self.io);
            }
            drop(Box::from_raw(self.files));
        }
    }
}

fn to_av_error(error: io::Error) -> ff::Error {
    ff::Error::Other { errno: error.raw_os_error().unwrap_or(rustix::io::Errno::NOMEM.raw_os_error()) }
}

/// Read callback of libav: reads the next bytes of the files.
unsafe extern "C" fn read_callback(opaque: *mut c_void, buffer: *mut u8, size: c_int) -> c_int {
    // SAFETY: libav hands back the pointer from `ConcatIo::open`, from one thread at a time, and `size` bytes
    // to write to.
    let (files, buffer) = unsafe {
        let length = usize::try_from(size).unwrap_or(0);
        (&mut *opaque.cast::<FileQueue>(), std::slice::from_raw_parts_mut(buffer, length))
    };
    while let Some(file) = files.pending.last_mut() {
        match file.read(buffer) {
            Ok(0) => {
                files.pending.pop();
            }
            Ok(count) => return c_int::try_from(count).unwrap_or(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                let code = -error.raw_os_error().unwrap_or(rustix::io::Errno::IO.raw_os_error());
                files.failed = Some(error);
                return code;
            }
        }
    }
    ffi::AVERROR_EOF
}
