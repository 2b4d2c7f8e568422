//! One playback stream: what it does with time, data and commands. It never looks at a clock; it is told how many samples
//! have passed, and what is taken from it then is heard then.

use std::time::Duration;

use pulseaudio::protocol::stream::BufferAttr;
use pulseaudio::protocol::{ChannelMap, ChannelVolume, Props, SampleFormat, SampleSpec};

use super::attr;
use super::format;
use super::queue::{Put, Queue};
use super::remix::{Remix, Rule};
use super::resample::Resampler;
use super::wire::Seek;

/// How late sound may come and still be heard in its place, in samples: 200 ms. A page that stutters under load is late by a
/// few of them now and then; a real sound card would crack, but what is recorded can wait.
pub(super) const GRACE: usize = 9600;
/// Drain commands that may wait at once; more are refused.
pub(super) const MAX_DRAINS: usize = 16;

/// What a client is told about its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
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
pub(super) struct Shape {
    pub(super) spec: SampleSpec,
    pub(super) map: ChannelMap,
    pub(super) rule: Rule,
    pub(super) volume: ChannelVolume,
    pub(super) muted: bool,
    pub(super) attr: BufferAttr,
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
    pub(super) write_position: i64,
    pub(super) read_position: i64,
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
    shape: Shape,
    remix: Remix,
    resampler: Option<Resampler>,
    queue: Queue,
    /// Bytes asked for that have not come.
    requested: i64,
    prebuffering: bool,
    /// Nothing was there to play when it was last its turn.
    dry: bool,
    /// What the client was last told to add to its latency.
    told_delay: Option<Duration>,
    /// Frames that were not there in time, up to [`GRACE`]: the last ones that were mixed without this stream.
    owed: usize,
    underrun_for: u64,
    playing_for: u64,
    drains: Vec<u32>,
    samples: Vec<f32>,
    frames: Vec<[f32; 2]>,
}

impl Stream {
    pub(super) fn new(owner: u32, props: Props, shape: Shape) -> Self {
        Self {
            owner,
            props,
            remix: Remix::new(&shape.map, shape.rule, &shape.volume, shape.muted),
            resampler: (!attr::is_native_rate(&shape.spec)).then(|| Resampler::new(shape.spec.sample_rate)),
            queue: Queue::new(
                attr::frame_len(&shape.spec).max(1) as usize,
                format::silence(shape.spec.format),
            ),
            requested: 0,
            prebuffering: shape.attr.pre_buffering > 0,
            dry: true,
            told_delay: None,
            owed: 0,
            underrun_for: u64::MAX,
            playing_for: 0,
            drains: Vec::new(),
            samples: Vec::new(),
            frames: Vec::new(),
            shape,
        }
    }

    pub(super) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Whether it takes samples as time passes.
    pub(super) fn is_running(&self) -> bool {
        !self.shape.corked && !self.prebuffering
    }

    /// Whether time changes anything about it.
    pub(super) fn is_active(&self) -> bool {
        self.is_running() || self.is_ringing()
    }

    /// Samples at the end of the mix that may still change.
    pub(super) fn owed(&self) -> usize {
        self.owed
    }

    /// Adds what is heard in the next `out.len()` samples.
    pub(super) fn render(&mut self, out: &mut [[f32; 2]], gain: [f32; 2], events: &mut Vec<Event>) {
        if !self.is_active() {
            if !self.shape.corked {
                self.count_silence(out.len());
            }
            return;
        }
        let wanted = self.resampler.as_ref().map_or(out.len(), |r| r.wanted(out.len()));
        let taken = if self.is_running() { self.take(wanted, events) } else { 0 };
        match &mut self.resampler {
            None => add(out, &self.frames[..taken], gain),
            Some(resampler) => {
                self.frames.truncate(taken);
                self.frames.resize(wanted, [0.0; 2]);
                // The input buffer is longer or shorter than the output; what is heard goes behind it.
                self.frames.resize(wanted + out.len(), [0.0; 2]);
                let (input, heard) = self.frames.split_at_mut(wanted);
                resampler.run(input, taken, heard);
                add(out, heard, gain);
            }
        }
        self.finish_drains(events);
    }

    /// Data from the client. Sound that is owed goes to the end of `mixed`, the last [`Stream::owed`] samples at least.
    pub(super) fn write(
        &mut self,
        (seek, offset, data): (Seek, i64, &[u8]),
        mixed: &mut [[f32; 2]],
        gain: [f32; 2],
        events: &mut Vec<Event>,
    ) {
        self.requested = self.requested.saturating_sub(data.len() as i64).max(0);
        let room = u64::from(self.shape.attr.max_length) + self.bytes_of(self.owed);
        if self.queue.put(seek, offset, data, room as usize) == Put::Full {
            events.push(Event::Overflow);
        }
        if self.prebuffering && self.queue.fill() >= i64::from(self.shape.attr.pre_buffering) {
            self.prebuffering = false;
        }
        if self.owed > 0 {
            let from = mixed.len().saturating_sub(self.owed);
            let taken = self.load(self.owed, events);
            add(&mut mixed[from..], &self.frames, gain);
            self.owed -= taken;
        }
    }

    /// Lets nothing be owed any more: the stream stood still since it had nothing to play.
    pub(super) fn forgive(&mut self) {
        self.dry |= self.owed > 0;
        self.owed = 0;
    }

    /// Asks for more as soon as there is room for at least `minreq`.
    pub(super) fn request(&mut self, events: &mut Vec<Event>) {
        let owed = self.bytes_of(self.owed) as i64;
        let room = i64::from(self.shape.attr.target_length) - self.queue.fill();
        let missing = room.min(i64::from(self.shape.attr.max_length)) + owed - self.requested;
        let enough = if self.prebuffering { 1 } else { i64::from(self.shape.attr.minimum_request_length) };
        if missing >= enough
            && let Ok(bytes) = u32::try_from(missing)
        {
            self.requested += missing;
            events.push(Event::Request(bytes));
        }
    }

    pub(super) fn cork(&mut self, corked: bool) {
        self.forgive();
        self.shape.corked = corked;
    }

    pub(super) fn flush(&mut self, events: &mut Vec<Event>) {
        self.forgive();
        self.queue.flush();
        self.prebuffer();
        self.finish_drains(events);
    }

    /// Waits for `prebuf` bytes before going on.
    pub(super) fn prebuffer(&mut self) {
        self.forgive();
        self.prebuffering = self.shape.attr.pre_buffering > 0;
    }

    /// Goes on with what is there.
    pub(super) fn trigger(&mut self) {
        self.prebuffering = false;
    }

    /// Plays what is there and then reports [`Event::Drained`]. False when too many such commands wait.
    pub(super) fn drain(&mut self, seq: u32, events: &mut Vec<Event>) -> bool {
        if self.drains.len() >= MAX_DRAINS {
            return false;
        }
        self.forgive();
        self.drains.push(seq);
        if self.queue.frames() > 0 {
            self.trigger();
        }
        self.finish_drains(events);
        true
    }

    pub(super) fn set_volume(&mut self, volume: ChannelVolume, muted: bool) {
        (self.shape.volume, self.shape.muted) = (volume, muted);
        self.remix = Remix::new(&self.shape.map, self.shape.rule, &volume, muted);
    }

    pub(super) fn set_attr(&mut self, asked: BufferAttr, low_latency: bool) {
        self.forgive();
        self.shape.attr = attr::settle(asked, &self.shape.spec, low_latency);
        if self.shape.attr.pre_buffering == 0 {
            self.prebuffering = false;
        }
    }

    pub(super) fn set_rate(&mut self, rate: u32) {
        self.forgive();
        self.shape.spec.sample_rate = rate;
        self.resampler = (!attr::is_native_rate(&self.shape.spec)).then(|| Resampler::new(rate));
    }

    pub(super) fn latency(&self) -> Latency {
        let delay = self.resampler.as_ref().map_or(0, Resampler::delay_frames) as u64;
        Latency {
            sink_usec: delay * 1_000_000 / u64::from(self.shape.spec.sample_rate.max(1)),
            playing: self.is_running() && !self.dry,
            write_position: self.queue.write_position(),
            read_position: self.queue.read_position(),
            underrun_for: self.underrun_for,
            playing_for: self.playing_for,
        }
    }

    /// Bytes in the queue.
    pub(super) fn held_bytes(&self) -> i64 {
        self.queue.fill().max(0)
    }

    /// Takes up to `wanted` frames into `self.frames` and notices when there are fewer.
    fn take(&mut self, wanted: usize, events: &mut Vec<Event>) -> usize {
        let taken = if self.owed > 0 { 0 } else { self.load(wanted, events) };
        if taken < wanted {
            self.run_dry(wanted - taken, events);
        }
        taken
    }

    fn load(&mut self, wanted: usize, events: &mut Vec<Event>) -> usize {
        let bytes = self.queue.take(wanted);
        self.samples.clear();
        format::decode(self.shape.spec.format, bytes, &mut self.samples);
        self.frames.clear();
        self.remix.apply(&self.samples, &mut self.frames);
        let taken = self.frames.len();
        if taken > 0 {
            if std::mem::replace(&mut self.dry, false) {
                self.playing_for = 0;
                events.push(Event::Started);
            }
            self.underrun_for = 0;
            self.playing_for += self.bytes_of(taken);
        }
        taken
    }

    /// The client is told of this much delay now. It averages what it is told over many seconds, and begins anew only after
    /// an underrun: so it is told of one when the delay is not what it was.
    pub(super) fn tell_delay(&mut self, delay: Duration, events: &mut Vec<Event>) {
        let before = self.told_delay.replace(delay);
        if before.is_some_and(|before| before != delay) && !self.dry {
            events.extend([Event::Underflow(self.queue.read_position()), Event::Started]);
        }
    }

    /// There were `missing` frames too few: they may come late, or the stream has run dry.
    fn run_dry(&mut self, missing: usize, events: &mut Vec<Event>) {
        let owed = self.owed + missing;
        // What has gone through a resampler cannot be taken back, and a stream that is drained ends here.
        if !self.dry && owed <= GRACE && self.resampler.is_none() && self.drains.is_empty() {
            self.owed = owed;
            return;
        }
        if !std::mem::replace(&mut self.dry, true) && self.drains.is_empty() {
            events.push(Event::Underflow(self.queue.read_position()));
        }
        self.playing_for = 0;
        self.count_silence(owed);
        self.owed = 0;
        if self.shape.attr.pre_buffering > 0 {
            self.prebuffering = true;
        } else {
            self.queue.skip(owed);
        }
    }

    fn count_silence(&mut self, frames: usize) {
        if self.underrun_for != u64::MAX {
            self.underrun_for += self.bytes_of(frames);
        }
    }

    fn bytes_of(&self, frames: usize) -> u64 {
        frames as u64 * u64::from(attr::frame_len(&self.shape.spec))
    }

    fn is_ringing(&self) -> bool {
        self.resampler.as_ref().is_some_and(Resampler::is_ringing)
    }

    fn finish_drains(&mut self, events: &mut Vec<Event>) {
        if !self.drains.is_empty() && self.queue.frames() == 0 && !self.is_ringing() {
            events.extend(self.drains.drain(..).map(Event::Drained));
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

fn add(out: &mut [[f32; 2]], heard: &[[f32; 2]], gain: [f32; 2]) {
    for (out, heard) in out.iter_mut().zip(heard) {
        out[0] += heard[0] * gain[0];
        out[1] += heard[1] * gain[1];
    }
}
