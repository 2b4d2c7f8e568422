//! LiveKit: a WebSocket with messages of its own, in protobuf. Tracks are announced, and then offered.

mod link;
mod messages;
mod session;
mod token;

use std::time::Duration;

use async_trait::async_trait;
use pagecast_core::spec::{IceServer, RoomIds, RoomUrl, Secret};
use tokio::time::timeout;
use url::Url;

use super::{Error, Offer, Said, Signal};
use link::{Broken, Link};
use session::Session;

/// How long the server may take for a greeting, or for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take for a goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// One session.
#[derive(Debug)]
pub(crate) struct LiveKit {
    url: String,
    shown: String,
    key: String,
    secret: Secret,
    ids: RoomIds,
    session: Option<Session>,
}

impl LiveKit {
    pub(crate) fn new(url: &RoomUrl, key: &str, secret: &Secret, ids: &RoomIds) -> Self {
        let (shown, url) = (ids.fill(&url.to_string()), ids.fill_url(url));
        Self { url, shown, key: key.to_owned(), secret: secret.clone(), ids: ids.clone(), session: None }
    }

    /// Where to connect: `rtc` below the server's address.
    fn address(&self) -> Option<Url> {
        let web = match self.url.strip_prefix("ws") {
            Some(rest) => format!("http{rest}"),
            None => self.url.clone(),
        };
        let mut url = Url::parse(&web).ok()?;
        url.path_segments_mut().ok()?.pop_if_empty().push("rtc");
        url.set_fragment(None);
        url.query_pairs_mut()
            .append_pair("protocol", &messages::PROTOCOL.to_string())
            .append_pair("auto_subscribe", "0")
            .append_pair("sdk", "pagecast")
            .append_pair("version", env!("CARGO_PKG_VERSION"));
        Some(url)
    }

    fn error(&self, broken: Broken) -> Error {
        let server = self.shown.clone();
        match broken {
            Broken::Unreachable(why) => Error::Unreachable { server, why },
            Broken::Failed(why) => Error::Failed { server, why },
            Broken::Refused(why) => Error::Refused { server, why },
            Broken::Replaced => Error::Replaced,
        }
    }
}

/// The same, but not for ever.
async fn in_time<T>(work: impl Future<Output = Result<T, Broken>> + Send) -> Result<T, Broken> {
    let late = |_| Err(Broken::Unreachable("it did not answer in time".into()));
    timeout(TIMEOUT, work).await.unwrap_or_else(late)
}

#[async_trait]
impl Signal for LiveKit {
    fn rids(&self) -> [&'static str; 2] {
        session::RIDS
    }

    async fn join(&mut self) -> Result<Vec<IceServer>, Error> {
        let (url, token) = (self.address(), token::mint(&self.key, &self.secret, &self.ids));
        let greeted = in_time(async move {
            let (Some(url), Some(token)) = (url, token) else {
                return Err(Broken::Refused("its address or the API key cannot be used".into()));
            };
            Session::join(Link::open(url, &token).await?).await
        });
        let (session, servers) = greeted.await.map_err(|broken| self.error(broken))?;
        self.session = Some(session);
        Ok(servers)
    }

    async fn negotiate(&mut self, offer: &Offer) -> Result<String, Error> {
        let answer = match &mut self.session {
            Some(session) => in_time(session.publish(offer)).await,
            None => Err(Broken::absent()),
        };
        answer.map_err(|broken| self.error(broken))
    }

    async fn trickle(&mut self, fragment: &str) -> Result<(), Error> {
        let told = match &mut self.session {
            Some(session) => in_time(session.trickle(fragment)).await,
            None => Err(Broken::absent()),
        };
        told.map_err(|broken| self.error(broken))
    }

    async fn restart(&mut self, fragment: &str) -> Result<Option<String>, Error> {
        let answer = match &mut self.session {
            Some(session) => in_time(session.restart(fragment)).await,
            None => Err(Broken::absent()),
        };
        answer.map(Some).map_err(|broken| self.error(broken))
    }

    async fn next(&mut self) -> Result<Said, Error> {
        let said = match &mut self.session {
            Some(session) => session.next().await,
            None => Err(Broken::absent()),
        };
        said.map_err(|broken| self.error(broken))
    }

    async fn leave(&mut self) -> Option<Error> {
        let session = self.session.take()?;
        let broken = timeout(GOODBYE, session.leave()).await.ok().flatten()?;
        Some(self.error(broken))
    }
}

#[cfg(test)]
mod tests;
