//! One playback stream: its queue, its latency and its commands. It reads no clock: the caller passes the
//! number of samples that have elapsed, and samples are heard when they are taken.

use std::time::Duration;

use pulseaudio::protocol::stream::BufferAttr;
use pulseaudio::protocol::{ChannelMap, ChannelVolume, Props, SampleFormat, SampleSpec};

use super::buffer_attr;
use super::format;
use super::queue::{PlaybackQueue, PutResult};
use super::remix::{RemixMatrix, RemixMode};
use super::resample::Resampler;
use super::wire::Seek;

/// How late samples may arrive and still be mixed in place, in samples: 200 ms. A page under load is
/// sometimes late; a real sound card would crackle, but a recording can wait.
pub(super) const MAX_LATE_SAMPLES: usize = 9600;
/// Most pending drain commands; more are refused.
pub(super) const MAX_PENDING_DRAINS: usize = 16;

/// Event of a stream that is sent to its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamEvent {
    /// Playback starts, or continues after an underrun.
    Started,
    /// The stream has run out of data at this byte position.
    Underflow(i64),
    /// Data was lost because the queue was full.
    Overflow,
    /// The client may send this many bytes.
    Request(u32),
    /// Everything was played: replies to the drain command with this sequence number.
    Drained(u32),
}

/// Format, volume and buffer sizes of a stream.
#[derive(Debug, Clone)]
pub(super) struct StreamConfig {
    pub(super) sample_spec: SampleSpec,
    pub(super) channel_map: ChannelMap,
    pub(super) remix_mode: RemixMode,
    pub(super) volume: ChannelVolume,
    pub(super) muted: bool,
    pub(super) buffer_attr: BufferAttr,
    pub(super) corked: bool,
    /// Whether the client may change the sample rate later.
    pub(super) variable_rate: bool,
}

/// Latency and positions of a stream at the time of the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Latency {
    /// Time from leaving the queue to being heard, in microseconds.
    pub(super) sink_usec: u64,
    pub(super) playing: bool,
    pub(super) write_index: i64,
    pub(super) read_index: i64,
    /// Bytes of silence since the last underrun; `u64::MAX` before the first sound.
    pub(super) underrun_for: u64,
    /// Bytes played since playback started or continued.
    pub(super) playing_for: u64,
}

/// A playback stream.
#[derive(Debug)]
pub(super) struct Stream {
    /// Id of the client that the stream belongs to.
    pub(super) owner: u32,
    pub(super) props: Props,
    config: StreamConfig,
    remix: RemixMatrix,
    resampler: Option<Resampler>,
    queue: PlaybackQueue,
    /// Requested bytes that have not arrived.
    requested_bytes: i64,
    prebuffering: bool,
    /// Whether the queue was empty at the last call.
    in_underrun: bool,
    /// Extra latency that was last reported to the client.
    reported_delay: Option<Duration>,
    /// Frames that did not arrive in time, up to [`MAX_LATE_SAMPLES`]: the last ones that were mixed without
    /// this stream.
    late_frames: usize,
    underrun_for: u64,
    playing_for: u64,
    pending_drains: Vec<u32>,
    samples: Vec<f32>,
    frames: Vec<[f32; 2]>,
}

impl Stream {
    pub(super) fn new(owner: u32, props: Props, config: StreamConfig) -> Self {
        Self {
            owner,
            props,
            remix: RemixMatrix::new(&config.channel_map, config.remix_mode, &config.volume, config.muted),
            resampler: (!buffer_attr::is_native_rate(&config.sample_spec))
                .then(|| Resampler::new(config.sample_spec.sample_rate)),
            queue: PlaybackQueue::new(
                buffer_attr::frame_bytes(&config.sample_spec).max(1) as usize,
                format::silence_byte(config.sample_spec.format),
            ),
            requested_bytes: 0,
            prebuffering: config.buffer_attr.pre_buffering > 0,
            in_underrun: true,
            reported_delay: None,
            late_frames: 0,
            underrun_for: u64::MAX,
            playing_for: 0,
            pending_drains: Vec::new(),
            samples: Vec::new(),
            frames: Vec::new(),
            config,
        }
    }

    pub(super) fn config(&self) -> &StreamConfig {
        &self.config
    }

    /// Whether the stream plays: it is neither corked nor prebuffering.
    pub(super) fn is_running(&self) -> bool {
        !self.config.corked && !self.prebuffering
    }

    /// Whether the stream plays, or its resampler still has output.
    pub(super) fn is_active(&self) -> bool {
        self.is_running() || self.is_ringing()
    }

    /// Number of samples at the end of the mix that may still change.
    pub(super) fn late_frames(&self) -> usize {
        self.late_frames
    }

    /// Mixes the next `out.len()` samples into `out`.
    pub(super) fn render(&mut self, out: &mut [[f32; 2]], gain: [f32; 2], events: &mut Vec<StreamEvent>) {
        if !self.is_active() {
            if !self.config.corked {
                self.add_underrun_frames(out.len());
            }
            return;
        }
        let needed = self.resampler.as_ref().map_or(out.len(), |r| r.input_frames_for(out.len()));
        let taken = if self.is_running() { self.take_frames(needed, events) } else { 0 };
        match &mut self.resampler {
            None => mix_into(out, &self.frames[..taken], gain),
            Some(resampler) => {
                self.frames.truncate(taken);
                self.frames.resize(needed, [0.0; 2]);
                // Input and output differ in length, so the output is stored behind the input.
                self.frames.resize(needed + out.len(), [0.0; 2]);
                let (input, output) = self.frames.split_at_mut(needed);
                resampler.process(input, taken, output);
                mix_into(out, output, gain);
            }
        }
        self.finish_drains(events);
    }

    /// Handles data from the client. Late frames are mixed into the end of `mixed`, which holds at least the
    /// last [`Stream::late_frames`] samples.
    pub(super) fn write(
        &mut self,
        (seek, offset, data): (Seek, i64, &[u8]),
        mixed: &mut [[f32; 2]],
        gain: [f32; 2],
        events: &mut Vec<StreamEvent>,
    ) {
        self.requested_bytes = self.requested_bytes.saturating_sub(data.len() as i64).max(0);
        let room = u64::from(self.config.buffer_attr.max_length) + self.bytes_of(self.late_frames);
        if self.queue.put(seek, offset, data, room as usize) == PutResult::Full {
            events.push(StreamEvent::Overflow);
        }
        if self.prebuffering && self.queue.fill() >= i64::from(self.config.buffer_attr.pre_buffering) {
            self.prebuffering = false;
        }
        if self.late_frames > 0 {
            let from = mixed.len().saturating_sub(self.late_frames);
            let taken = self.decode_queued(self.late_frames, events);
            mix_into(&mut mixed[from..], &self.frames, gain);
            self.late_frames -= taken;
        }
    }

    /// Gives up late frames: the gap counts as an underrun.
    pub(super) fn clear_late_frames(&mut self) {
        self.in_underrun |= self.late_frames > 0;
        self.late_frames = 0;
    }

    /// Requests more data as soon as there is room for at least `minreq`.
    pub(super) fn request_data(&mut self, events: &mut Vec<StreamEvent>) {
        let owed = self.bytes_of(self.late_frames) as i64;
        let room = i64::from(self.config.buffer_attr.target_length) - self.queue.fill();
        let missing = room.min(i64::from(self.config.buffer_attr.max_length)) + owed - self.requested_bytes;
        let enough =
            if self.prebuffering { 1 } else { i64::from(self.config.buffer_attr.minimum_request_length) };
        if missing >= enough
            && let Ok(bytes) = u32::try_from(missing)
        {
            self.requested_bytes += missing;
            events.push(StreamEvent::Request(bytes));
        }
    }

    pub(super) fn cork(&mut self, corked: bool) {
        self.clear_late_frames();
        self.config.corked = corked;
    }

    pub(super) fn flush(&mut self, events: &mut Vec<StreamEvent>) {
        self.clear_late_frames();
        self.queue.flush();
        self.prebuffer();
        self.finish_drains(events);
    }

    /// Pauses playback until `prebuf` bytes are queued.
    pub(super) fn prebuffer(&mut self) {
        self.clear_late_frames();
        self.prebuffering = self.config.buffer_attr.pre_buffering > 0;
    }

    /// Starts playback without waiting for `prebuf` bytes.
    pub(super) fn trigger(&mut self) {
        self.prebuffering = false;
    }

    /// Plays the queued data, and then reports [`StreamEvent::Drained`]. False if too many drain commands are
    /// pending.
    pub(super) fn drain(&mut self, seq: u32, events: &mut Vec<StreamEvent>) -> bool {
        if self.pending_drains.len() >= MAX_PENDING_DRAINS {
            return false;
        }
        self.clear_late_frames();
        self.pending_drains.push(seq);
        if self.queue.available_frames() > 0 {
            self.trigger();
        }
        self.finish_drains(events);
        true
    }

    pub(super) fn set_volume(&mut self, volume: ChannelVolume, muted: bool) {
        (self.config.volume, self.config.muted) = (volume, muted);
        self.remix = RemixMatrix::new(&self.config.channel_map, self.config.remix_mode, &volume, muted);
    }

    pub(super) fn set_buffer_attr(&mut self, requested: BufferAttr, low_latency: bool) {
        self.clear_late_frames();
        self.config.buffer_attr = buffer_attr::negotiate(requested, &self.config.sample_spec, low_latency);
        if self.config.buffer_attr.pre_buffering == 0 {
            self.prebuffering = false;
        }
    }

    pub(super) fn set_rate(&mut self, rate: u32) {
        self.clear_late_frames();
        self.config.sample_spec.sample_rate = rate;
        self.resampler =
            (!buffer_attr::is_native_rate(&self.config.sample_spec)).then(|| Resampler::new(rate));
    }

    pub(super) fn latency(&self) -> Latency {
        let delay = self.resampler.as_ref().map_or(0, Resampler::delay_frames) as u64;
        Latency {
            sink_usec: delay * 1_000_000 / u64::from(self.config.sample_spec.sample_rate.max(1)),
            playing: self.is_running() && !self.in_underrun,
            write_index: self.queue.write_index(),
            read_index: self.queue.read_index(),
            underrun_for: self.underrun_for,
            playing_for: self.playing_for,
        }
    }

    /// Number of bytes in the queue.
    pub(super) fn queued_bytes(&self) -> i64 {
        self.queue.fill().max(0)
    }

    /// Decodes up to `wanted` frames into `self.frames`, and handles missing ones.
    fn take_frames(&mut self, wanted: usize, events: &mut Vec<StreamEvent>) -> usize {
        let taken = if self.late_frames > 0 { 0 } else { self.decode_queued(wanted, events) };
        if taken < wanted {
            self.handle_missing_frames(wanted - taken, events);
        }
        taken
    }

    fn decode_queued(&mut self, wanted: usize, events: &mut Vec<StreamEvent>) -> usize {
        let bytes = self.queue.take(wanted);
        self.samples.clear();
        format::decode(self.config.sample_spec.format, bytes, &mut self.samples);
        self.frames.clear();
        self.remix.apply(&self.samples, &mut self.frames);
        let taken = self.frames.len();
        if taken > 0 {
            if std::mem::replace(&mut self.in_underrun, false) {
                self.playing_for = 0;
                events.push(StreamEvent::Started);
            }
            self.underrun_for = 0;
            self.playing_for += self.bytes_of(taken);
        }
        taken
    }

    /// Records the extra latency that the client is told. The client averages latencies over many seconds,
    /// and restarts only after an underrun, so a change is accompanied by an underrun event.
    pub(super) fn report_delay(&mut self, delay: Duration, events: &mut Vec<StreamEvent>) {
        let previous = self.reported_delay.replace(delay);
        if previous.is_some_and(|previous| previous != delay) && !self.in_underrun {
            events.extend([StreamEvent::Underflow(self.queue.read_index()), StreamEvent::Started]);
        }
    }

    /// Handles `missing` frames: they may arrive late, or the stream has an underrun.
    fn handle_missing_frames(&mut self, missing: usize, events: &mut Vec<StreamEvent>) {
        let owed = self.late_frames + missing;
        // The output of a resampler cannot be changed later, and a drained stream ends here.
        if !self.in_underrun
            && owed <= MAX_LATE_SAMPLES
            && self.resampler.is_none()
            && self.pending_drains.is_empty()
        {
            self.late_frames = owed;
            return;
        }
        if !std::mem::replace(&mut self.in_underrun, true) && self.pending_drains.is_empty() {
            events.push(StreamEvent::Underflow(self.queue.read_index()));
        }
        self.playing_for = 0;
        self.add_underrun_frames(owed);
        self.late_frames = 0;
        if self.config.buffer_attr.pre_buffering > 0 {
            self.prebuffering = true;
        } else {
            self.queue.skip(owed);
        }
    }

    fn add_underrun_frames(&mut self, frames: usize) {
        if self.underrun_for != u64::MAX {
            self.underrun_for += self.bytes_of(frames);
        }
    }

    fn bytes_of(&self, frames: usize) -> u64 {
        frames as u64 * u64::from(buffer_attr::frame_bytes(&self.config.sample_spec))
    }

    fn is_ringing(&self) -> bool {
        self.resampler.as_ref().is_some_and(Resampler::is_ringing)
    }

    fn finish_drains(&mut self, events: &mut Vec<StreamEvent>) {
        if !self.pending_drains.is_empty() && self.queue.available_frames() == 0 && !self.is_ringing() {
            events.extend(self.pending_drains.drain(..).map(StreamEvent::Drained));
        }
    }
}

/// Whether the sound card can play this format.
pub(super) fn is_playable(spec: &SampleSpec, map: &ChannelMap) -> bool {
    spec.format != SampleFormat::Invalid
        && (1..=32).contains(&spec.channels)
        && (8_000..=192_000).contains(&spec.sample_rate)
        && map.num_channels() == spec.channels
}

fn mix_into(out: &mut [[f32; 2]], frames: &[[f32; 2]], gain: [f32; 2]) {
    for (out, frame) in out.iter_mut().zip(frames) {
        out[0] += frame[0] * gain[0];
        out[1] += frame[1] * gain[1];
    }
}
