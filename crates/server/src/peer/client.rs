//! Client of the channel: finds the addresses of other nodes, signs requests, and checks the answers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use axum::http::{HeaderMap, Method, StatusCode};
use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, StreamExt as _};
use pagecast_core::spec::Secret;
use pagecast_egress::http::client_builder;
use pagecast_fleet::{CastId, Fleet, MAX_SNAPSHOT_BYTES, UnixMs, WorkerId, WorkerStatus};
use reqwest::{Certificate, Client, Response};
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use url::Url;

use super::messages::{
    CastOwner, EvidenceResponse, MAX_OWNERS, OwnersRequest, OwnersResponse, PeerError, PeerStatus,
};
use super::token::{self, FleetKey, Target};
use super::{REFUSED_HEADER, SIZE_HEADER, TAKEN_AT_HEADER};
use crate::rest::{
    EvidenceContent, MAX_EVIDENCE_FILE_LEN, MAX_EVIDENCE_FILES, RECORDING_CHUNK_LEN, SnapshotError,
    is_evidence_name,
};
use crate::service::Clock;

/// Interval at which the heartbeats of all nodes are read.
const REFRESH_INTERVAL: Duration = Duration::from_secs(2);
/// Longest wait for the database when the address of a node is not known.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(2);
/// Age of the newest heartbeat beyond which a node does not count as live, in milliseconds: several
/// heartbeats, and as long as casts have when their node is gone.
const LIVE_TIMEOUT_MS: u64 = 6000;
/// Most nodes that are kept: more than any fleet has.
const MAX_NODES: usize = 4096;
/// Longest time for a connection: nodes are in one network.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest silence within an answer. Event streams send a comment every 15 s.
const READ_TIMEOUT: Duration = Duration::from_secs(40);
/// Longest time for the status of a node.
const STATUS_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest time for the owners of casts.
const OWNERS_TIMEOUT: Duration = Duration::from_secs(4);
/// Longest time for a snapshot: the time that its node has for taking it, and for sending it.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(7);
/// Longest time for a list of evidence.
const EVIDENCE_LIST_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest time for a file of evidence: 32 MiB at 20 Mbit/s.
const EVIDENCE_FILE_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest answer in JSON, in bytes: ten thousand casts.
const MAX_JSON_LEN: usize = 1 << 20;
/// Most nodes that are asked at once.
const MAX_CONCURRENT_NODES: usize = 16;

/// Settings of a client.
#[derive(Debug, Clone)]
pub struct PeerClientConfig {
    /// Name of this node.
    pub node: WorkerId,
    /// Secret of the fleet.
    pub secret: Secret,
    /// Certificates of authorities that are trusted besides those of the system, in PEM.
    pub ca: Option<String>,
}

/// Sends requests to other nodes. Clones share addresses and connections.
#[derive(Debug, Clone)]
pub struct PeerClient(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    key: FleetKey,
    fleet: Arc<dyn Fleet>,
    http: Client,
    nodes: Mutex<NodeTable>,
    refresh: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(task) = self.refresh.get_mut().unwrap_or_else(PoisonError::into_inner) {
            task.abort();
        }
    }
}

/// A request to another node.
pub(super) struct PeerRequest {
    pub(super) method: Method,
    /// Path below `/peer/`, and query. It must be normalized.
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// User whose request is passed on.
    pub(super) client: Option<IpAddr>,
}

impl PeerRequest {
    fn get(path: String) -> Self {
        Self { method: Method::GET, path, headers: HeaderMap::new(), body: Bytes::new(), client: None }
    }
}

impl PeerClient {
    /// Starts a client, which reads the addresses of the other nodes from their heartbeats. Call it within a
    /// Tokio runtime.
    ///
    /// # Errors
    /// The certificates cannot be used.
    pub fn start(
        config: PeerClientConfig,
        fleet: Arc<dyn Fleet>,
        clock: Clock,
    ) -> Result<Self, reqwest::Error> {
        let PeerClientConfig { node, secret, ca } = config;
        let mut http =
            client_builder().no_proxy().connect_timeout(CONNECT_TIMEOUT).read_timeout(READ_TIMEOUT);
        if let Some(ca) = ca {
            http = http.tls_certs_merge(Certificate::from_pem_bundle(ca.as_bytes())?);
        }
        let inner = Arc::new(Inner {
            key: FleetKey::new(&secret, node, clock),
            fleet,
            http: http.build()?,
            nodes: Mutex::default(),
            refresh: Mutex::default(),
        });
        let task = tokio::spawn(refresh_nodes(Arc::downgrade(&inner)));
        *inner.refresh.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        Ok(Self(inner))
    }

    /// Name of this node.
    #[must_use]
    pub fn own(&self) -> &WorkerId {
        self.0.key.own()
    }

    /// Returns the live nodes, this one included, with their status, as of the last time the database could
    /// be read.
    pub(super) fn live_nodes(&self) -> Vec<(WorkerId, WorkerStatus)> {
        self.0.lock_nodes().live().map(|(id, node)| (id.clone(), node.status.clone())).collect()
    }

    /// Returns the other nodes that had a recent heartbeat when the database could last be read. It asks
    /// nobody.
    #[must_use]
    pub fn nodes(&self) -> Vec<WorkerId> {
        self.0.lock_nodes().live().map(|(id, _)| id).filter(|id| *id != self.own()).cloned().collect()
    }

    /// Asks a node for its status. Takes 3 s at most.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn status(&self, node: &WorkerId) -> Result<PeerStatus, PeerError> {
        within(node, STATUS_TIMEOUT, async {
            let response = self.send(node, PeerRequest::get("/status".to_owned())).await?;
            read_json(node, response).await
        })
        .await
    }

    /// Asks a node who owns these casts by the database, as it sees it. Casts without an owner are left out.
    /// Takes 4 s at most for each 256 casts.
    ///
    /// # Errors
    /// [`PeerError`]; [`PeerError::NoDatabase`] if the node cannot read the database.
    pub async fn owners(&self, node: &WorkerId, casts: &[CastId]) -> Result<Vec<CastOwner>, PeerError> {
        let mut found = Vec::new();
        for casts in casts.chunks(MAX_OWNERS) {
            let body = serde_json::to_vec(&OwnersRequest { casts: casts.to_vec() }).unwrap_or_default();
            let request = PeerRequest {
                method: Method::POST,
                body: body.into(),
                ..PeerRequest::get("/owners".to_owned())
            };
            let answer = within(node, OWNERS_TIMEOUT, async {
                let response = self.send(node, request).await?;
                if response.status() == StatusCode::SERVICE_UNAVAILABLE {
                    return Err(PeerError::NoDatabase(node.clone()));
                }
                read_json::<OwnersResponse>(node, response).await
            });
            let owners = answer.await?.owners;
            found.extend(owners.into_iter().filter(|owner| casts.contains(&owner.id)).take(MAX_OWNERS));
        }
        Ok(found)
    }

    /// Takes a snapshot of a cast that runs on another node.
    pub(crate) async fn snapshot(
        &self,
        node: &WorkerId,
        cast: &CastId,
    ) -> Result<Result<(UnixMs, Bytes), SnapshotError>, PeerError> {
        let invalid = || PeerError::InvalidAnswer(node.clone());
        within(node, SNAPSHOT_TIMEOUT, async {
            let response = self.send(node, PeerRequest::get(format!("/snapshots/{cast}"))).await?;
            match response.status() {
                StatusCode::OK => {}
                StatusCode::CONFLICT => return Ok(Err(SnapshotError::Ended)),
                StatusCode::NOT_FOUND | StatusCode::GATEWAY_TIMEOUT => {
                    return Ok(Err(SnapshotError::Timeout));
                }
                status => return Err(PeerError::Status { node: node.clone(), status: status.as_u16() }),
            }
            let taken = response.headers().get(TAKEN_AT_HEADER).and_then(|at| at.to_str().ok()?.parse().ok());
            let taken: UnixMs = taken.ok_or_else(invalid)?;
            let jpeg = read_body(node, response, MAX_SNAPSHOT_BYTES).await?;
            if jpeg.starts_with(b"\xff\xd8\xff") { Ok(Ok((taken, jpeg))) } else { Err(invalid()) }
        })
        .await
    }

    /// Finds the evidence of a cast on all other nodes: names and sizes. Nodes that do not answer are left
    /// out.
    pub(crate) async fn find_evidence(&self, cast: &CastId) -> Vec<(String, u64)> {
        let lists = stream::iter(self.nodes()).map(async |node| {
            let list = self.evidence_of(&node, cast).await;
            list.unwrap_or_else(|error| {
                tracing::debug!(%cast, node = node.0, %error, "cannot list evidence");
                Vec::new()
            })
        });
        lists.buffer_unordered(MAX_CONCURRENT_NODES).concat().await
    }

    async fn evidence_of(&self, node: &WorkerId, cast: &CastId) -> Result<Vec<(String, u64)>, PeerError> {
        within(node, EVIDENCE_LIST_TIMEOUT, async {
            let response = self.send(node, PeerRequest::get(format!("/evidence/{cast}"))).await?;
            let EvidenceResponse { mut files } = read_json(node, response).await?;
            files.retain(|(name, _)| is_evidence_name(name));
            files.truncate(MAX_EVIDENCE_FILES);
            Ok(files)
        })
        .await
    }

    /// Reads a file of evidence from whichever other node has it. `name` must be one of evidence.
    pub(crate) async fn read_evidence(&self, cast: &CastId, name: &str) -> EvidenceContent {
        let files = stream::iter(self.nodes()).map(async |node| {
            let file = self.evidence_file(&node, cast, name).await;
            file.unwrap_or_else(|error| {
                tracing::debug!(%cast, node = node.0, %error, "cannot read evidence");
                EvidenceContent::NotFound
            })
        });
        // A file is read from one node at a time, because it can be large.
        let mut files = std::pin::pin!(files.buffered(1));
        while let Some(file) = files.next().await {
            if !matches!(file, EvidenceContent::NotFound) {
                return file;
            }
        }
        EvidenceContent::NotFound
    }

    async fn evidence_file(
        &self,
        node: &WorkerId,
        cast: &CastId,
        name: &str,
    ) -> Result<EvidenceContent, PeerError> {
        within(node, EVIDENCE_FILE_TIMEOUT, async {
            let response = self.send(node, PeerRequest::get(format!("/evidence/{cast}/{name}"))).await?;
            match response.status() {
                StatusCode::OK => {
                    let bytes = read_body(node, response, MAX_EVIDENCE_FILE_LEN as usize).await?;
                    Ok(EvidenceContent::Bytes(bytes.into()))
                }
                StatusCode::NOT_FOUND => Ok(EvidenceContent::NotFound),
                StatusCode::PAYLOAD_TOO_LARGE => Ok(EvidenceContent::TooLarge),
                status => Err(PeerError::Status { node: node.clone(), status: status.as_u16() }),
            }
        })
        .await
    }

    /// Reads a chunk of a file of a recording in a folder of another node, from this offset, and the size of
    /// the file; `None` if the node has no such file.
    pub(crate) async fn read_recording(
        &self,
        node: &WorkerId,
        cast: &CastId,
        name: &str,
        from: u64,
    ) -> Result<Option<(Bytes, u64)>, PeerError> {
        within(node, EVIDENCE_FILE_TIMEOUT, async {
            let path = format!("/recordings/{cast}/{name}/{from}");
            let response = self.send(node, PeerRequest::get(path)).await?;
            match response.status() {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => return Ok(None),
                status => return Err(PeerError::Status { node: node.clone(), status: status.as_u16() }),
            }
            let size = response.headers().get(SIZE_HEADER).and_then(|size| size.to_str().ok()?.parse().ok());
            let size = size.ok_or_else(|| PeerError::InvalidAnswer(node.clone()))?;
            Ok(Some((read_body(node, response, RECORDING_CHUNK_LEN).await?, size)))
        })
        .await
    }

    /// Signs and sends a request, and returns the head of the answer.
    pub(super) async fn send(&self, node: &WorkerId, request: PeerRequest) -> Result<Response, PeerError> {
        let PeerRequest { method, path, headers, body, client } = request;
        let path = format!("/peer{path}");
        let base = self.url_of(node).await?;
        let invalid = || PeerError::InvalidAnswer(node.clone());
        let url = base.join(&path).map_err(|_| invalid())?;
        // The path must not lead elsewhere than it says.
        if path != url[url::Position::BeforePath..url::Position::AfterQuery] {
            return Err(invalid());
        }
        let target = Target { method: &method, path: &path };
        let token = self.0.key.sign(target, node, client, &body).ok_or_else(invalid)?;
        let request = self.0.http.request(method.clone(), url).headers(headers).header(token::HEADER, token);
        let response = request.body(body).send().await.map_err(|error| unreachable(node, error))?;
        if response.headers().contains_key(REFUSED_HEADER) {
            return Err(PeerError::Refused(node.clone()));
        }
        Ok(response)
    }

    /// Finds the address of a node.
    async fn url_of(&self, node: &WorkerId) -> Result<Url, PeerError> {
        let known = || self.0.lock_nodes().0.get(node).and_then(|node| node.url.clone());
        if let Some(url) = known() {
            return Ok(url);
        }
        // It may have registered just now.
        if let Ok(workers) = timeout(REFRESH_TIMEOUT, self.0.fleet.workers()).await {
            self.0.lock_nodes().update(workers);
        }
        known().ok_or_else(|| PeerError::UnknownNode(node.clone()))
    }
}

impl Inner {
    fn lock_nodes(&self) -> std::sync::MutexGuard<'_, NodeTable> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn refresh(&self) {
        let workers = self.fleet.recent_workers().await;
        self.lock_nodes().update(workers);
    }
}

/// Reads the heartbeats again and again, until the client is gone.
async fn refresh_nodes(client: Weak<Inner>) {
    while let Some(client) = client.upgrade() {
        client.refresh().await;
        drop(client);
        tokio::time::sleep(REFRESH_INTERVAL).await;
    }
}

/// The nodes of a fleet, as of the last time the database could be read.
#[derive(Debug, Default)]
struct NodeTable(HashMap<WorkerId, KnownNode>);

#[derive(Debug)]
struct KnownNode {
    url: Option<Url>,
    status: WorkerStatus,
}

impl NodeTable {
    /// Takes over what the database says. It says nothing if it cannot be read.
    fn update(&mut self, workers: Vec<(WorkerId, WorkerStatus)>) {
        if workers.is_empty() {
            return;
        }
        let known = |(id, status): (WorkerId, WorkerStatus)| {
            let url = status.node.peer_url.as_deref().and_then(parse_url);
            (id, KnownNode { url, status })
        };
        self.0 = workers.into_iter().take(MAX_NODES).map(known).collect();
    }

    /// Nodes that had a recent heartbeat when the database was last read.
    fn live(&self) -> impl Iterator<Item = (&WorkerId, &KnownNode)> {
        self.0.iter().filter(|(_, node)| node.status.heartbeat_age_ms <= LIVE_TIMEOUT_MS)
    }
}

/// Parses the URL of a node's channel.
fn parse_url(url: &str) -> Option<Url> {
    let url = Url::parse(url).ok()?;
    let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    (matches!(url.scheme(), "http" | "https") && plain && url.path() == "/").then_some(url)
}

/// Runs a request with a time limit.
async fn within<T>(
    node: &WorkerId,
    limit: Duration,
    request: impl Future<Output = Result<T, PeerError>>,
) -> Result<T, PeerError> {
    timeout(limit, request).await.unwrap_or_else(|_| Err(PeerError::Timeout(node.clone())))
}

pub(super) fn unreachable(node: &WorkerId, error: reqwest::Error) -> PeerError {
    PeerError::Unreachable { node: node.clone(), source: error.into() }
}

/// Reads a successful answer in JSON.
async fn read_json<T: DeserializeOwned>(node: &WorkerId, response: Response) -> Result<T, PeerError> {
    if response.status() != StatusCode::OK {
        return Err(PeerError::Status { node: node.clone(), status: response.status().as_u16() });
    }
    let body = read_body(node, response, MAX_JSON_LEN).await?;
    serde_json::from_slice(&body).map_err(|_| PeerError::InvalidAnswer(node.clone()))
}

/// Reads a body of limited length.
pub(super) async fn read_body(
    node: &WorkerId,
    mut response: Response,
    max_len: usize,
) -> Result<Bytes, PeerError> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(node, error))? {
        if body.len() + chunk.len() > max_len {
            return Err(PeerError::InvalidAnswer(node.clone()));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_without_a_recent_heartbeat_are_not_live() {
        let worker = |name: &str, heartbeat_age_ms| {
            (WorkerId(name.to_owned()), WorkerStatus { heartbeat_age_ms, ..WorkerStatus::default() })
        };
        let live = |table: &NodeTable| {
            let mut names: Vec<_> = table.live().map(|(id, _)| id.0.clone()).collect();
            names.sort();
            names.concat()
        };
        let mut table = NodeTable::default();
        assert_eq!(live(&table), "");
        table.update(vec![worker("a", 0), worker("b", LIVE_TIMEOUT_MS), worker("c", LIVE_TIMEOUT_MS + 1)]);
        assert_eq!(live(&table), "ab");
        // Without the database, whoever was live still may be.
        table.update(Vec::new());
        assert_eq!(live(&table), "ab");
        table.update(vec![worker("a", 0)]);
        assert_eq!(live(&table), "a");
    }

    #[test]
    fn addresses_of_nodes_are_checked() {
        for (url, accepted) in [
            ("http://10.0.0.7:8083", true),
            ("https://worker.example/", true),
            ("http://10.0.0.7:8083/x", false),
            ("http://user:password@10.0.0.7", false),
            ("file:///etc/passwd", false),
            ("10.0.0.7:8083", false),
        ] {
            assert_eq!(parse_url(url).is_some(), accepted, "{url}");
        }
    }
}
