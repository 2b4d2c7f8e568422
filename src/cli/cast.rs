//! Options of any cast: the page, the picture, pushes and the network.

use std::time::Duration;

use clap::Args;
use pagecast_core::spec::{NetworkPolicy, NetworkRule, Push, PushUrl, Size, Source, SourceUrl};
use pagecast_core::{CastSpec, Fps, SpecError};

use super::health::HealthOptions;
use super::page::PageOptions;

/// Options of `record` and `cast`.
#[derive(Debug, Args)]
pub(crate) struct CastOptions {
    /// The page, http or https
    #[arg(value_parser = super::location::parse_page_url)]
    pub(crate) url: SourceUrl,
    /// Width and height of page and video in pixels, even, up to 3840x2160
    #[arg(long, default_value = "1280x720", value_name = "WxH", value_parser = super::parse_size)]
    pub(crate) size: Size,
    /// Frames per second, 1 to 60
    #[arg(long, default_value = "30", value_name = "N", value_parser = super::parse_fps)]
    pub(crate) fps: Fps,
    /// Length of the recording or cast, like 10s, 1m30s or 2h, up to 24h [default: until Ctrl-C]
    #[arg(long, value_name = "TIME", value_parser = super::parse_duration)]
    pub(crate) duration: Option<Duration>,
    /// Limit of the video bitrate of recording and pushes, like 3M or 2500k; a plain number is kbit/s; 50k to
    /// 100M [default: by size and rate, 6M for 1280x720 at 30]
    #[arg(long, value_name = "RATE", value_parser = super::parse_kbps)]
    pub(crate) bitrate: Option<u32>,
    /// Device pixel ratio: at 2, a page of 1280x720 pixels lays out as 640x360
    #[arg(long, default_value = "1", value_name = "F")]
    pub(crate) scale_factor: f64,
    /// Start the browser, and open the page when Enter is pressed, which saves the browser's start-up time
    #[arg(long)]
    pub(crate) standby: bool,
    /// Print the result as one JSON object on standard output; its fields are documented in
    /// docs/guides/recording.md
    #[arg(long)]
    pub(crate) json: bool,
    /// Print only warnings and errors
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// Also send the stream to this server: rtmp://host/application/key, rtmps://… or
    /// srt://host:port?streamid=…; may be repeated, up to ten times. A lost connection is restored
    #[arg(long, value_name = "URL", value_parser = PushUrl::parse)]
    pub(crate) push: Vec<PushUrl>,
    #[command(flatten)]
    pub(crate) page: PageOptions,
    #[command(flatten)]
    pub(crate) health: HealthOptions,
    #[command(flatten)]
    pub(crate) network: NetworkOptions,
}

/// Options of what a page may reach.
#[derive(Debug, Args)]
#[command(next_help_heading = "The network")]
pub(crate) struct NetworkOptions {
    /// Let the page reach this, although it is not public: an address, a network like 10.0.0.0/8, a name,
    /// *.name or *, each optionally with :PORT; may be repeated
    #[arg(long, value_name = "RULE", value_parser = NetworkRule::parse)]
    allow_net: Vec<NetworkRule>,
    /// Never let the page reach this, even if it is public or allowed; same syntax as --allow-net; may be
    /// repeated
    #[arg(long, value_name = "RULE", value_parser = NetworkRule::parse)]
    deny_net: Vec<NetworkRule>,
    /// Let the page send UDP, to any address: some WebRTC calls need it; a page that makes a call without it
    /// causes a warning
    #[arg(long)]
    allow_udp: bool,
}

impl NetworkOptions {
    /// Returns the network policy of the page.
    pub(super) fn policy(&self) -> NetworkPolicy {
        NetworkPolicy { allow: self.allow_net.clone(), deny: self.deny_net.clone(), udp: self.allow_udp }
    }
}

impl CastOptions {
    /// Returns the description of the cast, without recording and room.
    pub(crate) fn spec(&self) -> Result<CastSpec, SpecError> {
        let mut spec = CastSpec::new(Source {
            url: self.url.clone(),
            size: self.size,
            fps: self.fps,
            scale_factor: self.scale_factor,
            context: self.page.context()?,
        });
        spec.bitrate_kbps = self.bitrate;
        spec.duration = self.duration;
        spec.pushes =
            self.push.iter().map(|url| Push { url: url.clone(), reconnect_timeout: None }).collect();
        spec.readiness = self.health.readiness();
        spec.checks = self.health.checks();
        spec.limits = self.health.limits();
        spec.network = self.network.policy();
        // The network rules restrict the page; the pushes are the user's own.
        spec.pushes_anywhere = true;
        Ok(spec)
    }
}
