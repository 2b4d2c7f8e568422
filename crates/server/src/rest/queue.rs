//! Places of casts in the queue, and why they wait.

use pagecast_fleet::{Cast, CastState, Error, QueueState, UnixMs, WorkerId, WorkerStatus};
use serde::Serialize;
use utoipa::ToSchema;

use crate::service::Service;

/// Time after which a cast that could be claimed has been passed over, in milliseconds: workers look at the
/// queue at least once a second.
const CLAIM_TIME_MS: UnixMs = 3000;

/// Place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = QueuePlace)]
pub(super) struct QueueView {
    /// Position in the order in which casts are offered to nodes, from 1. Applications take turns, so it may
    /// grow, and a cast that fits nowhere is passed over. Absent behind the first 2000 casts of the queue, or
    /// the first 100 of the application.
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<usize>,
    /// What the cast waits for: `node` (no node runs casts), `node-with-labels` (none of them has all labels
    /// of `placement`), or `room` (no node has enough free cores, memory and disk). Absent while that is not
    /// known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "room")]
    waits_for: Option<&'static str>,
}

/// The queue, and the nodes that could run its casts.
pub(super) struct QueueSnapshot {
    queue: QueueState,
    workers: Vec<(WorkerId, WorkerStatus)>,
    now: UnixMs,
}

impl QueueSnapshot {
    /// Reads the queue, if one of these casts is in it.
    pub(super) async fn load(service: &Service, casts: &[&Cast]) -> Result<Option<Self>, Error> {
        if !casts.iter().any(|cast| cast.state == CastState::Queued) {
            return Ok(None);
        }
        let mut workers = service.fleet.workers().await;
        workers.retain(|(_, status)| status.node.runs_casts() && !status.draining);
        Ok(Some(Self { queue: service.fleet.queue().await?, workers, now: service.now() }))
    }

    /// The place of a cast, if it is queued.
    pub(super) fn place(&self, cast: &Cast) -> Option<QueueView> {
        (cast.state == CastState::Queued).then(|| QueueView {
            position: self.queue.order.iter().position(|id| *id == cast.id).map(|place| place + 1),
            waits_for: self.missing(cast),
        })
    }

    fn missing(&self, cast: &Cast) -> Option<&'static str> {
        let labels = &cast.spec.placement.labels;
        if self.workers.is_empty() {
            Some("node")
        } else if !self.workers.iter().any(|(_, status)| status.node.has_labels(labels)) {
            Some("node-with-labels")
        } else {
            (self.now.saturating_sub(cast.created_ms) > CLAIM_TIME_MS).then_some("room")
        }
    }
}

#[cfg(test)]
mod tests {
    use pagecast_fleet::{CastId, NodeInfo};

    use super::*;
    use crate::callback::testing::cast;

    #[test]
    fn queued_casts_have_a_place_and_a_reason() {
        let id = |n| CastId::new(1, [n; 10]);
        let queued = |n, labels: &[&str]| {
            let mut cast = Cast { state: CastState::Queued, ..cast(id(n), "demo", "v1") };
            cast.spec.placement.labels = labels.iter().map(|label| (*label).to_owned()).collect();
            cast
        };
        let worker = |label: &str| {
            let node = NodeInfo { labels: vec![label.to_owned()], ..NodeInfo::default() };
            (WorkerId(label.to_owned()), WorkerStatus { node, ..WorkerStatus::default() })
        };
        let snapshot = |workers, now| QueueSnapshot {
            queue: QueueState { order: vec![id(2), id(1)], ..QueueState::default() },
            workers,
            now,
        };
        let place = |position, waits_for| Some(QueueView { position, waits_for });
        let late = snapshot(vec![worker("a"), worker("b")], 3001);
        assert_eq!(late.place(&queued(1, &["a"])), place(Some(2), Some("room")));
        assert_eq!(late.place(&queued(2, &["a", "b"])), place(Some(1), Some("node-with-labels")));
        assert_eq!(late.place(&queued(3, &[])), place(None, Some("room")), "it is far behind");
        assert_eq!(late.place(&cast(id(1), "demo", "v1")), None, "it runs");
        let early = snapshot(vec![worker("a")], 3000);
        assert_eq!(early.place(&queued(1, &[])), place(Some(2), None), "it may be claimed at any moment");
        assert_eq!(snapshot(Vec::new(), 0).place(&queued(1, &[])), place(Some(2), Some("node")));
    }
}
