//! LiveKit client: protobuf messages over a WebSocket. Tracks are announced before the offer.

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

/// Longest duration of joining, and of the answer to an offer.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest duration of leaving: the end of a cast waits for it.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// LiveKit client for one session.
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
        let (display_url, url) = (ids.fill_template(&url.to_string()), ids.fill_url_template(url));
        Self {
            url,
            display_url,
            key: key.to_owned(),
            secret: secret.clone(),
            ids: ids.clone(),
            session: None,
        }
    }

    /// The URL of the WebSocket: `rtc` below the server's URL.
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

    fn map_error(&self, error: ConnectionError) -> Error {
        let server = self.display_url.clone();
        match error {
            ConnectionError::Unreachable(why) => Error::Unreachable { server, why },
            ConnectionError::Failed(why) => Error::Failed { server, why },
            ConnectionError::Refused(why) => Error::Refused { server, why },
            ConnectionError::Replaced => Error::Replaced,
        }
    }
}

/// Limits a future to [`RESPONSE_TIMEOUT`].
async fn with_timeout<T>(
    work: impl Future<Output = Result<T, ConnectionError>> + Send,
) -> Result<T, ConnectionError> {
    let timed_out = |_| Err(ConnectionError::Unreachable("the response timed out".into()));
    timeout(RESPONSE_TIMEOUT, work).await.unwrap_or_else(timed_out)
}

#[async_trait]
impl SignalingClient for LiveKitClient {
    fn rids(&self) -> [&'static str; 2] {
        session::RIDS
    }

    async fn join(&mut self) -> Result<Vec<IceServer>, Error> {
        let (url, token) = (self.signal_url(), token::mint(&self.key, &self.secret, &self.ids));
        let joined = with_timeout(async move {
            let (Some(url), Some(token)) = (url, token) else {
                return Err(ConnectionError::Refused("the URL or the API key is invalid".into()));
            };
            Session::join(Connection::open(url, &token).await?).await
        });
        let (session, servers) = joined.await.map_err(|error| self.map_error(error))?;
        self.session = Some(session);
        Ok(servers)
    }

    async fn negotiate(&mut self, offer: &Offer) -> Result<String, Error> {
        let answer = match &mut self.session {
            Some(session) => with_timeout(session.publish(offer)).await,
            None => Err(ConnectionError::no_session()),
        };
        answer.map_err(|error| self.map_error(error))
    }

    async fn trickle(&mut self, fragment: &str) -> Result<(), Error> {
        let sent = match &mut self.session {
            Some(session) => with_timeout(session.trickle(fragment)).await,
            None => Err(ConnectionError::no_session()),
        };
        sent.map_err(|error| self.map_error(error))
    }

    async fn restart_ice(&mut self, fragment: &str) -> Result<Option<String>, Error> {
        let answer = match &mut self.session {
            Some(session) => with_timeout(session.restart_ice(fragment)).await,
            None => Err(ConnectionError::no_session()),
        };
        answer.map(Some).map_err(|error| self.map_error(error))
    }

    async fn next_event(&mut self) -> Result<ServerEvent, Error> {
        let event = match &mut self.session {
            Some(session) => session.next_event().await,
            None => Err(ConnectionError::no_session()),
        };
        event.map_err(|error| self.map_error(error))
    }

    async fn leave(&mut self) -> Option<Error> {
        let session = self.session.take()?;
        let error = timeout(LEAVE_TIMEOUT, session.leave()).await.ok().flatten()?;
        Some(self.map_error(error))
    }
}

#[cfg(test)]
mod tests;
