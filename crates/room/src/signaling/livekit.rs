//! LiveKit: a WebSocket with messages of its own, in protobuf. Tracks are announced, and then offered.

mod connection;
mod messages;
mod session;
mod token;

use std::time::Duration;

use async_trait::async_trait;
use pagecast_core::spec::{IceServer, RoomIds, RoomUrl, Secret};
use tokio::time::timeout;
use url::Url;

use super::{Error, Offer, ServerEvent, SignalingClient};
use connection::{Connection, ConnectionError};
use session::Session;

/// How long the server may take for a greeting, or for an answer.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take for a goodbye.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// One session.
#[derive(Debug)]
pub(crate) struct LiveKitClient {
    url: String,
    display_url: String,
    key: String,
    secret: Secret,
    ids: RoomIds,
    session: Option<Session>,
}

impl LiveKitClient {
    pub(crate) fn new(url: &RoomUrl, key: &str, secret: &Secret, ids: &RoomIds) -> Self {
        let (shown, url) = (ids.fill_template(&url.to_string()), ids.fill_url_template(url));
        Self {
            url,
            display_url: shown,
            key: key.to_owned(),
            secret: secret.clone(),
            ids: ids.clone(),
            session: None,
        }
    }

    /// Where to connect: `rtc` below the server's address.
    fn signal_url(&self) -> Option<Url> {
        let web = match self.url.strip_prefix("ws") {
            Some(rest) => format!("http{rest}"),
            None => self.url.clone(),
        };
        let mut url = Url::parse(&web).ok()?;
        url.path_segments_mut().ok()?.pop_if_empty().push("rtc");
        url.set_fragment(None);
        url.query_pairs_mut()
            .append_pair("protocol", &messages::PROTOCOL_VERSION.to_string())
            .append_pair("auto_subscribe", "0")
            .append_pair("sdk", "pagecast")
            .append_pair("version", env!("CARGO_PKG_VERSION"));
        Some(url)
    }

    fn map_error(&self, broken: ConnectionError) -> Error {
        let server = self.display_url.clone();
        match broken {
            ConnectionError::Unreachable(why) => Error::Unreachable { server, why },
            ConnectionError::Failed(why) => Error::Failed { server, why },
            ConnectionError::Refused(why) => Error::Refused { server, why },
            ConnectionError::Replaced => Error::Replaced,
        }
    }
}

/// The same, but not for ever.
async fn with_timeout<T>(
    work: impl Future<Output = Result<T, ConnectionError>> + Send,
) -> Result<T, ConnectionError> {
    let late = |_| Err(ConnectionError::Unreachable("it did not answer in time".into()));
    timeout(RESPONSE_TIMEOUT, work).await.unwrap_or_else(late)
}

#[async_trait]
impl SignalingClient for LiveKitClient {
    fn rids(&self) -> [&'static str; 2] {
        session::RIDS
    }

    async fn join(&mut self) -> Result<Vec<IceServer>, Error> {
        let (url, token) = (self.signal_url(), token::mint(&self.key, &self.secret, &self.ids));
        let greeted = with_timeout(async move {
            let (Some(url), Some(token)) = (url, token) else {
                return Err(ConnectionError::Refused("its address or the API key cannot be used".into()));
            };
            Session::join(Connection::open(url, &token).await?).await
        });
        let (session, servers) = greeted.await.map_err(|broken| self.map_error(broken))?;
        self.session = Some(session);
        Ok(servers)
    }

    async fn negotiate(&mut self, offer: &Offer) -> Result<String, Error> {
        let answer = match &mut self.session {
            Some(session) => with_timeout(session.publish(offer)).await,
            None => Err(ConnectionError::no_session()),
        };
        answer.map_err(|broken| self.map_error(broken))
    }

    async fn trickle(&mut self, fragment: &str) -> Result<(), Error> {
        let told = match &mut self.session {
            Some(session) => with_timeout(session.trickle(fragment)).await,
            None => Err(ConnectionError::no_session()),
        };
        told.map_err(|broken| self.map_error(broken))
    }

    async fn restart_ice(&mut self, fragment: &str) -> Result<Option<String>, Error> {
        let answer = match &mut self.session {
            Some(session) => with_timeout(session.restart_ice(fragment)).await,
            None => Err(ConnectionError::no_session()),
        };
        answer.map(Some).map_err(|broken| self.map_error(broken))
    }

    async fn next_event(&mut self) -> Result<ServerEvent, Error> {
        let said = match &mut self.session {
            Some(session) => session.next_event().await,
            None => Err(ConnectionError::no_session()),
        };
        said.map_err(|broken| self.map_error(broken))
    }

    async fn leave(&mut self) -> Option<Error> {
        let session = self.session.take()?;
        let broken = timeout(LEAVE_TIMEOUT, session.leave()).await.ok().flatten()?;
        Some(self.map_error(broken))
    }
}

#[cfg(test)]
mod tests;
