//! A browser that is started before its cast, and the queues between page and outputs.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use pagecast_core::{CastSpec, Samples, Tick};
use pagecast_page::Page;
use pagecast_page::browser::PagePolicy;

/// Ticks queued for the encoder. When full, a change is merged into a later tick.
const MAX_QUEUED_TICKS: usize = 4;
/// Runs of samples queued for the encoder, 10 to 100 ms each. When full, they are dropped and become silence.
const MAX_QUEUED_SAMPLES: usize = 256;

/// A page without a document yet, ready for a compatible cast.
#[derive(Debug)]
pub struct WarmBrowser {
    pub(super) template: CastSpec,
    pub(super) page: Page,
    pub(super) ticks: Receiver<Tick>,
    pub(super) samples: Receiver<Samples>,
}

impl WarmBrowser {
    /// Starts display, sound card and browser for a cast like this one.
    ///
    /// # Errors
    /// See [`pagecast_page::Error`].
    pub fn start(spec: &CastSpec) -> Result<Self, pagecast_page::Error> {
        let (tick_sender, ticks) = tick_queue();
        let (sample_sender, samples) = sample_queue();
        let page = Page::start(page_config(spec), tick_sender, sample_sender)?;
        Ok(Self { template: spec.clone(), page, ticks, samples })
    }
}

/// Creates the queue of ticks from display to outputs.
pub(crate) fn tick_queue() -> (SyncSender<Tick>, Receiver<Tick>) {
    sync_channel(MAX_QUEUED_TICKS)
}

/// Creates the queue of samples from sound card to outputs.
pub(crate) fn sample_queue() -> (SyncSender<Samples>, Receiver<Samples>) {
    sync_channel(MAX_QUEUED_SAMPLES)
}

/// Returns the settings of the page of a cast.
pub(crate) fn page_config(spec: &CastSpec) -> pagecast_page::Config {
    pagecast_page::Config {
        source: spec.source.clone(),
        policy: PagePolicy {
            signal: spec.readiness.signal,
            max_video_size: spec.limits.max_video,
            detect_webrtc: !spec.network.udp,
            log_requests: false,
        },
        network: spec.network.clone(),
        max_disk_bytes: spec.limits.disk_bytes,
    }
}
