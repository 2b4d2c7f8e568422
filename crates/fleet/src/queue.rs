//! Order in which queued casts are offered to workers, the same for every backend.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use pagecast_core::spec::Placement;

use crate::{CastId, Claim, Error, UnixMs};

/// Maximum number of queued casts per application that are offered to a worker at once. If none of them fits,
/// only this application waits.
pub(crate) const MAX_CANDIDATES_PER_APP: i64 = 100;
/// Maximum number of queued casts of all applications that are offered to a worker at once: reading their
/// rows takes some milliseconds.
pub(crate) const MAX_CANDIDATES: usize = 2000;
/// Number of bytes after which no further cast is claimed in the same transaction, because a claim reads
/// them all.
const MAX_CLAIM_BYTES: i64 = 8 << 20;

/// A queued cast, as it is offered to a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedCast {
    /// Id of the cast.
    pub id: CastId,
    /// Application that owns the cast.
    pub app: String,
    /// Expected resource use ([`crate::cast::weight`]).
    pub weight: u32,
}

/// Decides whether a worker takes a queued cast, beside those that it takes already in the same call.
pub type Fits<'a> = dyn Fn(&[QueuedCast], &QueuedCast) -> bool + Sync + 'a;

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
    /// Total weight of its casts that run.
    pub running_weight: i64,
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
    let offered = |(app, (running_weight, _, labels))| OfferedApp { app, running_weight, labels };
    apps.into_iter().map(offered).collect()
}

/// Row of a queued cast that is offered to a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QueueRow {
    /// Row number.
    pub n: i64,
    /// The cast.
    pub cast: QueuedCast,
    /// Bytes stored for the cast.
    pub bytes: i64,
    /// Total weight of the application's casts that run.
    pub running_weight: i64,
}

/// Casts of an application that are still to be offered.
#[derive(Debug)]
struct AppQueue {
    running_weight: i64,
    /// Row number of the oldest cast that was offered and does not fit.
    passed_over: Option<i64>,
    /// The oldest first.
    rows: VecDeque<QueueRow>,
}

impl AppQueue {
    /// What decides when the application has its turn, the smallest first: running weight, and row of the
    /// cast that has waited longest.
    fn turn(&self) -> Option<(i64, i64)> {
        let next = self.rows.front()?.n;
        Some((self.running_weight, self.passed_over.unwrap_or(next)))
    }
}

/// Claims several queued casts for a worker in the order of single claims: the weight of an application
/// grows with each of its casts that is taken.
#[derive(Debug)]
pub(crate) struct BatchClaim {
    apps: Vec<AppQueue>,
    /// Turns of the applications, and their places in `apps`.
    turns: BinaryHeap<Reverse<((i64, i64), usize)>>,
    /// The last turn before which all applications are known, if the queue is longer than was read.
    last_known_turn: Option<(i64, i64)>,
    limit: usize,
    /// Casts that the worker takes: those that it has claimed, and those chosen last.
    taken: Vec<QueuedCast>,
    claims: Vec<Claim>,
}

impl BatchClaim {
    /// Begins to claim at most `limit` casts. `rows` are in the order of [`fair_order`], the oldest of an
    /// application first.
    pub(crate) fn new(rows: Vec<QueueRow>, limit: usize) -> Self {
        let is_cut_off = rows.len() >= MAX_CANDIDATES;
        let mut apps: Vec<AppQueue> = Vec::new();
        for row in rows {
            match apps.last_mut() {
                Some(app) if app.rows.front().is_some_and(|first| first.cast.app == row.cast.app) => {
                    app.rows.push_back(row);
                }
                _ => apps.push(AppQueue {
                    running_weight: row.running_weight,
                    passed_over: None,
                    rows: [row].into(),
                }),
            }
        }
        let last_known_turn = apps.last().and_then(AppQueue::turn).filter(|_| is_cut_off);
        let turns = apps.iter().enumerate().filter_map(|(n, app)| Some(Reverse((app.turn()?, n)))).collect();
        Self { apps, turns, last_known_turn, limit, taken: Vec::new(), claims: Vec::new() }
    }

    /// Chooses casts that fit, and returns their rows, which are to be claimed in one transaction. None are
    /// left if it returns no rows.
    pub(crate) fn choose(&mut self, fits: &Fits<'_>) -> Vec<i64> {
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while self.taken.len() < self.limit && bytes < MAX_CLAIM_BYTES {
            let Some(Reverse((turn, n))) = self.turns.pop() else { break };
            if self.last_known_turn.is_some_and(|last| turn > last) {
                self.turns.clear();
                break;
            }
            let app = &mut self.apps[n];
            let Some(row) = app.rows.pop_front() else { continue };
            if fits(&self.taken, &row.cast) {
                app.running_weight += i64::from(row.cast.weight);
                bytes += row.bytes;
                rows.push(row.n);
                self.taken.push(row.cast);
            } else {
                app.passed_over.get_or_insert(row.n);
            }
            self.turns.extend(app.turn().map(|turn| Reverse((turn, n))));
        }
        rows
    }

    /// Adds what was claimed of the casts chosen last. Others were faster to claim the rest, which counts as
    /// running from now on. After an error, the batch ends with what was claimed before.
    ///
    /// # Errors
    /// Nothing was claimed before.
    pub(crate) fn add(&mut self, claimed: Result<Vec<Claim>, Error>) -> Result<(), Error> {
        match claimed {
            Ok(claims) => self.claims.extend(claims),
            Err(error) if self.claims.is_empty() => return Err(error),
            Err(error) => {
                tracing::debug!(%error, "cannot claim further casts");
                self.turns.clear();
            }
        }
        let claims = &self.claims;
        self.taken.retain(|cast| claims.iter().any(|claim| claim.ticket.cast == cast.id));
        Ok(())
    }

    /// Claims of all casts, in the order in which they were offered.
    pub(crate) fn into_claims(self) -> Vec<Claim> {
        self.claims
    }
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

    /// Rows of an application, each a cast of weight 1000.
    fn rows(app: &str, running_weight: i64, numbers: &[i64]) -> Vec<QueueRow> {
        let row = |n: &i64| {
            let id = CastId::new(*n, [0; 10]);
            QueueRow {
                n: *n,
                cast: QueuedCast { id, app: app.to_owned(), weight: 1000 },
                bytes: 1000,
                running_weight,
            }
        };
        numbers.iter().map(row).collect()
    }

    #[test]
    fn a_batch_is_in_the_order_of_single_claims() {
        let queue =
            [rows("a", 0, &[2, 3, 4, 9]), rows("b", 0, &[5, 6]), rows("c", 1500, &[1, 7, 8])].concat();
        let mut batch = BatchClaim::new(queue.clone(), 8);
        assert_eq!(batch.choose(&|_, _| true), [2, 5, 3, 6, 1, 4, 7, 9], "c has 1500 from the beginning");
        let mut batch = BatchClaim::new(queue.clone(), 3);
        assert_eq!(batch.choose(&|_, cast| cast.app != "a"), [5, 6, 1]);
        let mut batch = BatchClaim::new(queue, usize::MAX);
        let one_of_each = |taken: &[QueuedCast], cast: &QueuedCast| taken.iter().all(|t| t.app != cast.app);
        assert_eq!(batch.choose(&one_of_each), [2, 5, 1], "it knows what it takes already");
    }

    #[test]
    fn casts_that_others_claim_count_as_running() {
        let mut batch = BatchClaim::new([rows("a", 0, &[1, 2, 3]), rows("b", 0, &[4, 5])].concat(), 2);
        assert_eq!(batch.choose(&|_, _| true), [1, 4]);
        batch.add(Ok(Vec::new())).unwrap();
        let fits = |taken: &[QueuedCast], _: &QueuedCast| taken.len() < 2;
        assert_eq!(batch.choose(&fits), [2, 5], "nothing was taken");
        let failed = batch.add(Err(Error::Unavailable));
        assert!(matches!(failed, Err(Error::Unavailable)), "nothing was claimed before");
    }

    #[test]
    fn large_casts_are_claimed_in_several_transactions() {
        let mut large = rows("a", 0, &[1, 2, 3]);
        large.iter_mut().for_each(|row| row.bytes = MAX_CLAIM_BYTES / 2 + 1);
        let mut batch = BatchClaim::new(large, 3);
        assert_eq!(batch.choose(&|_, _| true), [1, 2]);
        assert_eq!(batch.choose(&|_, _| true), [3]);
    }

    #[test]
    fn a_batch_ends_where_an_application_that_was_not_read_may_have_its_turn() {
        let mut queue = rows("a", 0, &[0, 1]);
        let others = 2..MAX_CANDIDATES as i64;
        queue.extend(others.flat_map(|n| rows(&format!("b{n}"), 0, &[n])));
        let mut batch = BatchClaim::new(queue, usize::MAX);
        let chosen = batch.choose(&|_, _| true);
        let expected: Vec<i64> = [0].into_iter().chain(2..MAX_CANDIDATES as i64).collect();
        assert_eq!(chosen, expected, "the second cast of the first application is not next");
        assert!(batch.choose(&|_, _| true).is_empty());
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
