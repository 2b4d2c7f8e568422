//! Other nodes of the fleet, and who may go on when the database does not answer.
//!
//! A node that cannot renew its leases keeps its casts as long as nobody can have taken them: it knows no
//! other node; or other nodes have lost the database, too; or one of them reads in the database that a cast
//! is still its own. A node that reaches nobody is cut off: others may take its casts, so these stop
//! publishing.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use pagecast_fleet::{CastId, Ticket, WorkerId};

/// How long another node may take to answer: much longer than a healthy one needs, and shorter than the part
/// of a lease in which its answer is needed.
pub(super) const PEER_TIMEOUT: Duration = Duration::from_secs(1);

/// What a node says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerStatus {
    /// Whether the fleet's database answers it.
    pub has_database: bool,
    /// Casts that it runs, with the epochs of their tickets.
    pub casts: HashMap<CastId, u64>,
}

/// Owners of casts, each with the epoch of its ticket.
pub type Owners = HashMap<CastId, (WorkerId, u64)>;

/// Asks other nodes. An answer of `None` means that the node was not reached, or that it cannot tell.
#[async_trait]
pub trait Peers: fmt::Debug + Send + Sync {
    /// Asks a node for its status.
    async fn status(&self, node: &WorkerId) -> Option<PeerStatus>;

    /// Asks a node who owns these casts, by the database.
    async fn owners(&self, node: &WorkerId, casts: &[CastId]) -> Option<Owners>;
}

/// What another node says to one that cannot renew its leases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PeerReport {
    /// It was not reached, or says nothing certain.
    Silent,
    /// It has lost the database, too.
    NoDatabase,
    /// It reads these owners in the database.
    Owners(Owners),
}

/// What a node that cannot renew a lease does with the cast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// The cast goes on, because nobody can have taken it.
    GoOn,
    /// The cast stops publishing and storing, and goes on recording to its spool.
    Isolate,
    /// The cast has another owner, and is killed.
    Abandon,
}

/// Decides what becomes of a cast whose lease cannot be renewed, by what the other nodes say. No report
/// means that there is no other node.
pub(super) fn decide(reports: &[PeerReport], ticket: &Ticket) -> Decision {
    let owners = reports.iter().find_map(|report| match report {
        PeerReport::Owners(owners) => Some(owners),
        PeerReport::Silent | PeerReport::NoDatabase => None,
    });
    match owners {
        Some(owners) => match owners.get(&ticket.cast) {
            Some((worker, epoch)) if *worker == ticket.worker && *epoch == ticket.epoch => Decision::GoOn,
            _ => Decision::Abandon,
        },
        None if reports.is_empty() || reports.contains(&PeerReport::NoDatabase) => Decision::GoOn,
        None => Decision::Isolate,
    }
}

/// Asks all other nodes about these casts, all at once.
pub(super) async fn ask(peers: Option<&dyn Peers>, others: &[WorkerId], casts: &[CastId]) -> Vec<PeerReport> {
    let ask_one = async |node: &WorkerId| -> PeerReport {
        let Some(peers) = peers else { return PeerReport::Silent };
        let report = async {
            match peers.status(node).await {
                None => PeerReport::Silent,
                Some(status) if !status.has_database => PeerReport::NoDatabase,
                Some(_) => peers.owners(node, casts).await.map_or(PeerReport::Silent, PeerReport::Owners),
            }
        };
        tokio::time::timeout(PEER_TIMEOUT, report).await.unwrap_or(PeerReport::Silent)
    };
    futures_util::future::join_all(others.iter().map(ask_one)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cast() -> CastId {
        CastId::new(7, [1; 10])
    }

    fn ticket() -> Ticket {
        Ticket { cast: cast(), worker: WorkerId("a".into()), epoch: 3, nonce: 9 }
    }

    fn owned_by(worker: &str, epoch: u64) -> PeerReport {
        PeerReport::Owners([(cast(), (WorkerId(worker.into()), epoch))].into())
    }

    #[test]
    fn a_cast_goes_on_as_long_as_nobody_can_have_taken_it() {
        use PeerReport::{NoDatabase, Silent};
        for (reports, expected) in [
            (vec![], Decision::GoOn),
            (vec![NoDatabase], Decision::GoOn),
            (vec![Silent, NoDatabase, Silent], Decision::GoOn),
            (vec![owned_by("a", 3)], Decision::GoOn),
            (vec![Silent, NoDatabase, owned_by("a", 3)], Decision::GoOn),
            (vec![Silent], Decision::Isolate),
            (vec![Silent, Silent], Decision::Isolate),
            (vec![owned_by("b", 4)], Decision::Abandon),
            (vec![owned_by("a", 4)], Decision::Abandon),
            (vec![PeerReport::Owners(Owners::default())], Decision::Abandon),
            // One that has the database knows more than one that has not.
            (vec![NoDatabase, owned_by("b", 4)], Decision::Abandon),
        ] {
            assert_eq!(decide(&reports, &ticket()), expected, "{reports:?}");
        }
    }

    /// Nodes that answer by their names.
    #[derive(Debug)]
    struct NamedPeers;

    #[async_trait]
    impl Peers for NamedPeers {
        async fn status(&self, node: &WorkerId) -> Option<PeerStatus> {
            match node.0.as_str() {
                "slow" => std::future::pending().await,
                "gone" => None,
                name => Some(PeerStatus { has_database: name != "cut", casts: HashMap::new() }),
            }
        }

        async fn owners(&self, _: &WorkerId, casts: &[CastId]) -> Option<Owners> {
            Some(casts.iter().map(|cast| (cast.clone(), (WorkerId("a".into()), 3))).collect())
        }
    }

    #[tokio::test]
    async fn all_nodes_are_asked_at_once_and_not_for_long() {
        use PeerReport::{NoDatabase, Silent};
        let others = ["slow", "gone", "cut", "well", "slow"].map(|name| WorkerId(name.into()));
        let began = tokio::time::Instant::now();
        let reports = ask(Some(&NamedPeers), &others, &[cast()]).await;
        assert_eq!(reports, [Silent, Silent, NoDatabase, owned_by("a", 3), Silent]);
        assert!(began.elapsed() >= PEER_TIMEOUT, "the slow ones were waited for");
        assert_eq!(ask(None, &others[..1], &[cast()]).await, [Silent]);
    }
}
