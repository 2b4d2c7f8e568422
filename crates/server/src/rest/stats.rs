//! History of a cast's statistics, from the files that its owners wrote.

use std::io;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use pagecast_fleet::{CastStats, is_stats_history};
use serde::Serialize;
use utoipa::ToSchema;

use super::error::ErrorResponse;
use super::evidence::{EvidenceContent, find_all, read_any, read_error};
use super::view::CastStatsView;
use super::{ApiError, Caller, RestState, json_response};

/// Most samples of an answer: as many as a wide screen has pixels. About 700 KiB of JSON.
const MAX_SAMPLES: usize = 2000;
/// Most files that are read, the newest: a cast has one for each node that ran it.
const MAX_FILES: usize = 50;

/// History of the statistics of a cast.
#[derive(Serialize, ToSchema)]
pub(super) struct StatsHistory {
    /// At most 2000 samples, oldest first: one each 5 seconds, fewer for long casts. A node that is lost
    /// takes the samples since its last copy along, or all without a store of the fleet.
    samples: Vec<CastStatsView>,
}

/// Get the history of a cast's statistics.
#[utoipa::path(get, path = "/v1/casts/{id}/stats", tag = "casts", operation_id = "getStatsHistory",
    params(("id" = String, Path, description = "Id of the cast.")),
    responses((status = 200, description = "The samples.", body = StatsHistory),
        (status = 404, description = "`no-such-cast`.", body = ErrorResponse)))]
pub(super) async fn get(
    State(rest): State<RestState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let service = &rest.service;
    let cast = caller.find_cast(service, &id).await?;
    let mut names: Vec<String> =
        find_all(service, &cast.id).await.map_err(read_error)?.into_iter().map(|(name, _)| name).collect();
    names.retain(|name| is_stats_history(name));
    let excess = names.len().saturating_sub(MAX_FILES);
    let mut samples = Vec::new();
    for name in &names[excess..] {
        if let EvidenceContent::Bytes(content) =
            read_any(service, &cast.id, name).await.map_err(read_error)?
        {
            samples.extend(parse(&content).map_err(read_error)?);
        }
    }
    samples.sort_by_key(|sample: &CastStats| sample.at_ms);
    let step = samples.len().div_ceil(MAX_SAMPLES).max(1);
    let samples = samples.iter().step_by(step).map(CastStatsView::new).collect();
    Ok(json_response(StatusCode::OK, &StatsHistory { samples }))
}

/// Reads a file. Its last line may be incomplete.
fn parse(content: &[u8]) -> io::Result<Vec<CastStats>> {
    let text = std::str::from_utf8(content).map_err(io::Error::other)?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}
