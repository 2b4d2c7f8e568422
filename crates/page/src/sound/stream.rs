//! One playback stream: what it does with time, data and commands. It never looks at a clock; it is told how many samples
//! have passed, and what is taken from it then is heard then.

use std::time::Duration;

use pulseaudio::protocol::stream::BufferAttr;
use pulseaudio::protocol::{ChannelMap, ChannelVolume, Props, SampleFormat, SampleSpec};

use super::buffer_attr;
use super::format;
use super::queue::{PlaybackQueue, PutResult};
use super::remix::{RemixMatrix, RemixMode};
use super::resample::Resampler;
use super::wire::Seek;

/// How late sound may come and still be heard in its place, in samples: 200 ms. A page that stutters under load is late by a
/// few of them now and then; a real sound card would crack, but what is recorded can wait.
pub(super) const MAX_LATE_SAMPLES: usize = 9600;
/// Drain commands that may wait at once; more are refused.
pub(super) const MAX_PENDING_DRAINS: usize = 16;

/// What a client is told about its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamEvent {
    /// Sound goes on after the start or an underrun.
    Started,
    /// There was nothing to play from this byte on.
    Underflow(i64),
    /// Data was lost because the queue was full.
    Overflow,
    /// So many bytes may be sent.
    Request(u32),
    /// Everything was heard: answers the drain command with this number.
    Drained(u32),
}

/// What a stream is made of.
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

/// True at the moment it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Latency {
    /// Time from being taken out of the queue to being heard, in microseconds.
    pub(super) sink_usec: u64,
    pub(super) playing: bool,
    pub(super) write_index: i64,
    pub(super) read_index: i64,
    /// Bytes of silence since sound stopped; `u64::MAX` before there was any.
    pub(super) underrun_for: u64,
    /// Bytes of sound since it went on.
    pub(super) playing_for: u64,
}

/// A playback stream.
#[derive(Debug)]
pub(super) struct Stream {
    /// The client it belongs to.
    pub(super) owner: u32,
    pub(super) props: Props,
    config: StreamConfig,
    remix: RemixMatrix,
    resampler: Option<Resampler>,
    queue: PlaybackQueue,
    /// Bytes asked for that have not come.
    requested_bytes: i64,
    prebuffering: bool,
    /// Nothing was there to play when it was last its turn.
    in_underrun: bool,
    /// What the client was last told to add to its latency.
    reported_delay: Option<Duration>,
    /// Frames that were not there in time, up to [`MAX_LATE_SAMPLES`]: the last ones that were mixed without this stream.
    late_frames: usize,
    underrun_for: u64,
    playing_for: u64,
    pending_drains: Vec<u32>,
    samples: Vec<f32>,
    frames: Vec<[f32; 2]>,
}

impl Stream {
    pub(super) fn new(owner: u32, props: Props, shape: StreamConfig) -> Self {
        Self {
            owner,
            props,
            remix: RemixMatrix::new(&shape.channel_map, shape.remix_mode, &shape.volume, shape.muted),
            resampler: (!buffer_attr::is_native_rate(&shape.sample_spec))
                .then(|| Resampler::new(shape.sample_spec.sample_rate)),
            queue: PlaybackQueue::new(
                buffer_attr::frame_bytes(&shape.sample_spec).max(1) as usize,
                format::silence_byte(shape.sample_spec.format),
            ),
            requested_bytes: 0,
            prebuffering: shape.buffer_attr.pre_buffering > 0,
            in_underrun: true,
            reported_delay: None,
            late_frames: 0,
            underrun_for: u64::MAX,
            playing_for: 0,
            pending_drains: Vec::new(),
            samples: Vec::new(),
            frames: Vec::new(),
            config: shape,
        }
    }

    pub(super) fn config(&self) -> &StreamConfig {
        &self.config
    }

    /// Whether it takes samples as time passes.
    pub(super) fn is_running(&self) -> bool {
        !self.config.corked && !self.prebuffering
    }

    /// Whether time changes anything about it.
    pub(super) fn is_active(&self) -> bool {
        self.is_running() || self.is_ringing()
    }

    /// Samples at the end of the mix that may still change.
    pub(super) fn late_frames(&self) -> usize {
        self.late_frames
    }

    /// Adds what is heard in the next `out.len()` samples.
    pub(super) fn render(&mut self, out: &mut [[f32; 2]], gain: [f32; 2], events: &mut Vec<StreamEvent>) {
        if !self.is_active() {
            if !self.config.corked {
                self.add_underrun_frames(out.len());
            }
            return;
        }
        let wanted = self.resampler.as_ref().map_or(out.len(), |r| r.input_frames_for(out.len()));
        let taken = if self.is_running() { self.take_frames(wanted, events) } else { 0 };
        match &mut self.resampler {
            None => mix_into(out, &self.frames[..taken], gain),
            Some(resampler) => {
                self.frames.truncate(taken);
                self.frames.resize(wanted, [0.0; 2]);
                // The input buffer is longer or shorter than the output; what is heard goes behind it.
                self.frames.resize(wanted + out.len(), [0.0; 2]);
                let (input, heard) = self.frames.split_at_mut(wanted);
                resampler.process(input, taken, heard);
                mix_into(out, heard, gain);
            }
        }
        self.finish_drains(events);
    }

    /// Data from the client. Sound that is owed goes to the end of `mixed`, the last [`Stream::late_frames`] samples at least.
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

    /// Lets nothing be owed any more: the stream stood still since it had nothing to play.
    pub(super) fn clear_late_frames(&mut self) {
        self.in_underrun |= self.late_frames > 0;
        self.late_frames = 0;
    }

    /// Asks for more as soon as there is room for at least `minreq`.
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

    /// Waits for `prebuf` bytes before going on.
    pub(super) fn prebuffer(&mut self) {
        self.clear_late_frames();
        self.prebuffering = self.config.buffer_attr.pre_buffering > 0;
    }

    /// Goes on with what is there.
    pub(super) fn trigger(&mut self) {
        self.prebuffering = false;
    }

    /// Plays what is there and then reports [`Event::Drained`]. False when too many such commands wait.
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

    pub(super) fn set_buffer_attr(&mut self, asked: BufferAttr, low_latency: bool) {
        self.clear_late_frames();
        self.config.buffer_attr = buffer_attr::negotiate(asked, &self.config.sample_spec, low_latency);
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

    /// Bytes in the queue.
    pub(super) fn queued_bytes(&self) -> i64 {
        self.queue.fill().max(0)
    }

    /// Takes up to `wanted` frames into `self.frames` and notices when there are fewer.
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

    /// The client is told of this much delay now. It averages what it is told over many seconds, and begins anew only after
    /// an underrun: so it is told of one when the delay is not what it was.
    pub(super) fn report_delay(&mut self, delay: Duration, events: &mut Vec<StreamEvent>) {
        let before = self.reported_delay.replace(delay);
        if before.is_some_and(|before| before != delay) && !self.in_underrun {
            events.extend([StreamEvent::Underflow(self.queue.read_index()), StreamEvent::Started]);
        }
    }

    /// There were `missing` frames too few: they may come late, or the stream has run dry.
    fn handle_missing_frames(&mut self, missing: usize, events: &mut Vec<StreamEvent>) {
        let owed = self.late_frames + missing;
        // What has gone through a resampler cannot be taken back, and a stream that is drained ends here.
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

/// Whether the sound card plays streams of this kind.
pub(super) fn is_playable(spec: &SampleSpec, map: &ChannelMap) -> bool {
    spec.format != SampleFormat::Invalid
        && (1..=32).contains(&spec.channels)
        && (8_000..=192_000).contains(&spec.sample_rate)
        && map.num_channels() == spec.channels
}

fn mix_into(out: &mut [[f32; 2]], heard: &[[f32; 2]], gain: [f32; 2]) {
    for (out, heard) in out.iter_mut().zip(heard) {
        out[0] += heard[0] * gain[0];
        out[1] += heard[1] * gain[1];
    }
}
