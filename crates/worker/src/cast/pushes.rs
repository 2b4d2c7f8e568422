//! The pushes of a cast: those it begins with, those that are added and removed while it runs, and what is
//! told of them.

use std::path::PathBuf;
use std::sync::mpsc::Receiver;

use pagecast_core::connection::{Event, State};
use pagecast_core::spec::{MAX_PUSHES, NetworkPolicy, Push, PushUrl};
use pagecast_media::encode::{KeyframeRequest, Tracks};
use pagecast_media::fanout::FanOutHandle;
use pagecast_media::push::{self, Config, Id, Pushes, Status};
use serde::{Deserialize, Serialize};

/// What is changed about a cast while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Send the stream there too.
    AddPush(Push),
    /// Send it there no longer.
    RemovePush(PushUrl),
    /// Write a picture of the page there (JPEG), which changes nothing; told as
    /// [`CastEvent::Snapshot`](super::News::Snapshot).
    Snapshot(PathBuf),
}

/// News of a push. Neither the address nor the error tells a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushEvent {
    /// Names it within its cast, in the order in which pushes were added, from 1; 0 for one that was refused.
    pub id: u32,
    /// Where the stream is sent, without its key.
    pub url: String,
    /// Where it stands.
    pub state: State,
    /// Why it does not run, if that is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What became of a push.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushReport {
    /// Names it within its cast.
    pub id: u32,
    /// Where the stream was sent, without its key.
    pub url: String,
    /// `idle` for one that ended as it should, `failed` for one that was given up.
    pub state: State,
    /// Encoded bytes sent.
    pub bytes: u64,
    /// Packets that it did not get since its first one.
    pub lost: u64,
    /// Connections after the first one.
    pub reconnects: u64,
    /// Why it did not run at the end, if it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Why the connection was lost last, if it ever was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interruption: Option<String>,
}

impl From<push::TargetEvent> for PushEvent {
    fn from(news: push::TargetEvent) -> Self {
        let push::TargetEvent { id, url, event: Event { state, error } } = news;
        Self { id: id.0, url: url.to_string(), state, error }
    }
}

impl From<Status> for PushReport {
    fn from(status: Status) -> Self {
        let Status { id, url, state, bytes, lost, reconnects, error, interruption, .. } = status;
        Self { id: id.0, url: url.to_string(), state, bytes, lost, reconnects, error, interruption }
    }
}

/// The pushes of a cast that is live.
#[derive(Debug)]
pub(super) struct ActivePushes {
    pushes: Pushes,
    events: Receiver<push::TargetEvent>,
    ids: Vec<(PushUrl, Id)>,
}

impl ActivePushes {
    /// Starts them, before the first packet. `network`: what they may be sent to; `None`: anywhere.
    pub(super) fn start(
        wanted: &[Push],
        network: Option<NetworkPolicy>,
        tracks: Tracks,
        taps: FanOutHandle,
        keyframes: KeyframeRequest,
    ) -> Result<Self, push::Error> {
        let config = Config { network, ..Config::default() };
        let (pushes, news) = Pushes::start(tracks, taps, keyframes, config)?;
        let mut running = Self { pushes, events: news, ids: Vec::new() };
        wanted.iter().try_for_each(|push| running.add(push.clone()))?;
        Ok(running)
    }

    fn add(&mut self, push: Push) -> Result<(), push::Error> {
        let url = push.url.clone();
        self.ids.push((url, self.pushes.add(push)?));
        Ok(())
    }

    /// Whether none gets the stream any more, nor will.
    pub(super) fn are_finished(&self) -> bool {
        self.pushes.statuses().iter().all(|push| matches!(push.state, State::Failed | State::Idle))
    }

    /// A change that cannot be made changes nothing else; what is told then.
    pub(super) fn apply_change(&mut self, change: Change) -> Option<PushEvent> {
        match change {
            Change::AddPush(push) => {
                let url = push.url.clone();
                self.add(push).err().map(|error| refused_event(&url, &error))
            }
            Change::RemovePush(url) => {
                let mut known = self.ids.iter().rev().filter(|(known, _)| *known == url);
                if !known.any(|(_, id)| self.pushes.remove(*id)) {
                    tracing::warn!(%url, "a push that is not there is not removed");
                }
                self.ids.retain(|(known, _)| *known != url);
                None
            }
            Change::Snapshot(_) => None,
        }
    }

    /// What happened since the last call.
    pub(super) fn events(&self) -> impl Iterator<Item = PushEvent> + '_ {
        self.events.try_iter().map(Into::into)
    }

    /// Ends them, once the stream is over: what became of each, and the last news.
    pub(super) fn finish(self) -> (Vec<PushReport>, Vec<PushEvent>) {
        let states = self.pushes.finish();
        (states.into_iter().map(Into::into).collect(), self.events.try_iter().map(Into::into).collect())
    }
}

/// Makes a change to pushes that have not begun, or says why not.
pub(crate) fn apply_change(pushes: &mut Vec<Push>, change: Change) -> Option<PushEvent> {
    match change {
        Change::AddPush(push) if pushes.len() >= MAX_PUSHES => {
            Some(refused_event(&push.url, &push::Error::TooMany))
        }
        Change::AddPush(push) if pushes.iter().any(|known| known.url == push.url) => {
            Some(refused_event(&push.url, &push::Error::Duplicate(push.url.clone())))
        }
        Change::AddPush(push) => {
            pushes.push(push);
            None
        }
        Change::RemovePush(url) => {
            pushes.retain(|push| push.url != url);
            None
        }
        Change::Snapshot(_) => None,
    }
}

fn refused_event(url: &PushUrl, error: &push::Error) -> PushEvent {
    PushEvent { id: 0, url: url.to_string(), state: State::Failed, error: Some(error.to_string()) }
}
