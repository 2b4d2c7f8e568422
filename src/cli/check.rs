//! Options of `pagecast check`.

use std::path::PathBuf;

use clap::Args;
use pagecast_core::spec::{Size, Source, SourceUrl};
use pagecast_core::{CastSpec, Fps, SpecError};

use super::cast::NetworkOptions;
use super::health::HealthOptions;
use super::page::PageOptions;

/// Options of `pagecast check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The page, http or https
    #[arg(value_parser = super::location::parse_page_url)]
    url: SourceUrl,
    /// Write a picture of the page at the end to this file (JPEG), at most 640 pixels wide
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Print the result as one JSON object, as `POST /v1/casts/check` returns it, without its fields on
    /// the node
    #[arg(long)]
    pub(crate) json: bool,
    /// Width and height of the page in pixels, even, up to 3840x2160
    #[arg(long, default_value = "1280x720", value_name = "WxH", value_parser = super::parse_size)]
    size: Size,
    /// Frames per second, 1 to 60
    #[arg(long, default_value = "30", value_name = "N", value_parser = super::parse_fps)]
    fps: Fps,
    /// Device pixel ratio: at 2, a page of 1280x720 pixels lays out as 640x360
    #[arg(long, default_value = "1", value_name = "F")]
    scale_factor: f64,
    #[command(flatten)]
    page: PageOptions,
    #[command(flatten)]
    health: HealthOptions,
    #[command(flatten)]
    network: NetworkOptions,
}

impl CheckArgs {
    /// Returns the description of a cast of this page, without outputs.
    pub(crate) fn spec(&self) -> Result<CastSpec, SpecError> {
        let mut spec = CastSpec::new(Source {
            url: self.url.clone(),
            size: self.size,
            fps: self.fps,
            scale_factor: self.scale_factor,
            context: self.page.context()?,
        });
        spec.readiness = self.health.readiness();
        spec.checks = self.health.checks();
        spec.limits = self.health.limits();
        spec.network = self.network.policy();
        Ok(spec)
    }
}
