//! Order in which queued casts are offered to workers, the same for every backend.

use std::collections::HashMap;

use pagecast_core::spec::Placement;

use crate::{CastId, UnixMs};

/// Maximum number of queued casts per application that are offered to a worker at once. If none of them fits,
/// only this application waits.
pub(crate) const MAX_CANDIDATES_PER_APP: i64 = 100;
/// Maximum number of queued casts of all applications that are offered to a worker at once: reading them
/// takes a fraction of a second.
pub(crate) const MAX_CANDIDATES: usize = 2000;
/// Number of queued casts read at once while a worker decides which fits. Small, because often the first one
/// does.
pub(crate) const CANDIDATE_BATCH: usize = 16;

/// The queue of the fleet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueState {
    /// Number of queued casts.
    pub casts: u64,
    /// Sum of their weights ([`crate::cast::weight`]).
    pub weight: u64,
    /// Time at which the oldest of them was created.
    pub oldest_ms: Option<UnixMs>,
    /// Ids of the queued casts in the order in which they are offered to workers. A long queue is cut off
    /// after 2000 casts, and the part of an application after 100.
    pub order: Vec<CastId>,
}

/// Labels that a cast asks for as databases store them: sorted, each once, with commas in between. So equal
/// sets are equal texts, and casts that ask for the same are together in an index.
pub(crate) fn stored_labels(placement: &Placement) -> String {
    let mut labels: Vec<&str> = placement.labels.iter().map(String::as_str).collect();
    labels.sort_unstable();
    labels.dedup();
    labels.join(",")
}

/// Whether a node with `labels` has all that a cast asks for, in the form of [`stored_labels`].
pub(crate) fn has_labels(labels: &[String], wanted: &str) -> bool {
    wanted.split(',').filter(|label| !label.is_empty()).all(|label| labels.iter().any(|own| own == label))
}

/// Queued casts of an application that ask for the same labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QueuedGroup {
    /// Name of the application.
    pub app: String,
    /// Labels that the casts ask for, in the form of [`stored_labels`].
    pub labels: String,
    /// Total weight of the application's casts that run.
    pub running_weight: i64,
    /// Row number of the oldest of the casts.
    pub first: i64,
}

/// An application whose queued casts are offered to a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OfferedApp {
    /// Name of the application.
    pub app: String,
    /// Sets of labels that its casts ask for and the worker has, in the form of [`stored_labels`].
    pub labels: Vec<String>,
}

/// Applications in the order in which their casts are offered to a worker with `labels`: those whose running
/// casts have the least weight first, then those that have waited longest. Casts that ask for labels which
/// the worker does not have play no part. `None` stands for a worker with all labels.
pub(crate) fn fair_order(groups: Vec<QueuedGroup>, labels: Option<&[String]>) -> Vec<OfferedApp> {
    let mut apps: HashMap<String, (i64, i64, Vec<String>)> = HashMap::new();
    let is_offered = |group: &QueuedGroup| labels.is_none_or(|labels| has_labels(labels, &group.labels));
    for group in groups.into_iter().filter(is_offered) {
        let (_, first, sets) =
            apps.entry(group.app).or_insert((group.running_weight, group.first, Vec::new()));
        *first = group.first.min(*first);
        sets.push(group.labels);
    }
    let mut apps: Vec<_> = apps.into_iter().collect();
    apps.sort_unstable_by(|(_, (a_weight, a_first, _)), (_, (b_weight, b_first, _))| {
        (a_weight, a_first).cmp(&(b_weight, b_first))
    });
    apps.into_iter().map(|(app, (.., labels))| OfferedApp { app, labels }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(app: &str, labels: &str, running_weight: i64, first: i64) -> QueuedGroup {
        QueuedGroup { app: app.to_owned(), labels: labels.to_owned(), running_weight, first }
    }

    fn order(groups: Vec<QueuedGroup>, labels: &[&str]) -> Vec<(String, Vec<String>)> {
        let labels: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
        fair_order(groups, Some(&labels)).into_iter().map(|offered| (offered.app, offered.labels)).collect()
    }

    #[test]
    fn the_least_running_weight_comes_first_and_then_the_longest_wait() {
        let groups = vec![
            group("a", "", 1000, 1),
            group("b", "", 0, 9),
            group("c", "", 1000, 0),
            group("d", "", 300, 2),
        ];
        let apps: Vec<_> = order(groups, &[]).into_iter().map(|(app, _)| app).collect();
        assert_eq!(apps, ["b", "d", "c", "a"]);
    }

    #[test]
    fn casts_for_other_nodes_play_no_part() {
        let groups = || {
            vec![
                group("a", "gpu", 0, 1),
                group("a", "", 0, 5),
                group("b", "", 0, 4),
                group("c", "gpu,x", 0, 0),
            ]
        };
        let of = |app: &str, labels: &[&str]| {
            (app.to_owned(), labels.iter().map(|set| (*set).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(order(groups(), &[]), [of("b", &[""]), of("a", &[""])]);
        assert_eq!(order(groups(), &["gpu"]), [of("a", &["gpu", ""]), of("b", &[""])]);
        assert_eq!(order(groups(), &["x", "gpu"])[0], of("c", &["gpu,x"]));
        let all: Vec<_> = fair_order(groups(), None).into_iter().map(|offered| offered.app).collect();
        assert_eq!(all, ["c", "a", "b"]);
    }

    #[test]
    fn equal_sets_of_labels_are_stored_alike() {
        let stored = |labels: &[&str]| {
            stored_labels(&Placement { labels: labels.iter().map(|label| (*label).to_owned()).collect() })
        };
        assert_eq!((stored(&[]), stored(&["b", "a", "b"])), (String::new(), "a,b".to_owned()));
        let own = ["a".to_owned(), "b".to_owned()];
        assert!(has_labels(&own, "") && has_labels(&own, "a,b") && has_labels(&[], ""));
        assert!(!has_labels(&own, "a,c") && !has_labels(&[], "a") && !has_labels(&own, "ab"));
    }
}
