//! The pushes of a cast: those it starts with, those added and removed while it runs, and their events.

use std::sync::mpsc::Receiver;
use std::task::Waker;

use pagecast_core::connection::{Event, State};
use pagecast_core::spec::{MAX_PUSHES, NetworkPolicy, Push, PushUrl};
use pagecast_media::encode::{KeyframeRequest, Tracks};
use pagecast_media::fanout::FanOutHandle;
use pagecast_media::push::{self, Config, Id, Pushes, Status};
use serde::{Deserialize, Serialize};

use super::Change;

/// A push changed its state. Neither `url` nor `error` contains the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushEvent {
    /// Number of the push within its cast, from 1 in the order of addition; 0 if it was refused.
    pub id: u32,
    /// Where the push sends the stream, without the key.
    pub url: String,
    /// State of the push's connection.
    pub state: State,
    /// Why the push is not running, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The result of a push at the end of its cast.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushReport {
    /// Number of the push within its cast.
    pub id: u32,
    /// Where the push sent the stream, without the key.
    pub url: String,
    /// `idle` if the push ended normally, `failed` if it stopped reconnecting.
    pub state: State,
    /// Encoded bytes sent.
    pub bytes: u64,
    /// Packets dropped since the first one was sent.
    pub lost: u64,
    /// Connections after the first one.
    pub reconnects: u64,
    /// Why the push was not running at the end, if it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Why the connection was last lost, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interruption: Option<String>,
}

impl From<push::TargetEvent> for PushEvent {
    fn from(event: push::TargetEvent) -> Self {
        let push::TargetEvent { id, url, event: Event { state, error } } = event;
        Self { id: id.0, url: url.to_string(), state, error }
    }
}

impl From<Status> for PushReport {
    fn from(status: Status) -> Self {
        let Status { id, url, state, bytes, lost, reconnects, error, interruption, .. } = status;
        Self { id: id.0, url: url.to_string(), state, bytes, lost, reconnects, error, interruption }
    }
}

/// The pushes of a cast whose outputs have started.
#[derive(Debug)]
pub(super) struct ActivePushes {
    pushes: Pushes,
    events: Receiver<push::TargetEvent>,
    ids: Vec<(PushUrl, Id)>,
}

impl ActivePushes {
    /// Starts the pushes, before the first packet. `network` limits where they may connect; `None` does not.
    /// `waker` is woken by their events.
    pub(super) fn start(
        initial: &[Push],
        network: Option<NetworkPolicy>,
        tracks: Tracks,
        fan_out: FanOutHandle,
        keyframes: KeyframeRequest,
        waker: Waker,
    ) -> Result<Self, push::Error> {
        let config = Config { network, ..Config::default() };
        let (pushes, events) = Pushes::start(tracks, fan_out, keyframes, config)?;
        pushes.set_waker(waker);
        let mut running = Self { pushes, events, ids: Vec::new() };
        initial.iter().try_for_each(|push| running.add(push.clone()))?;
        Ok(running)
    }

    fn add(&mut self, push: Push) -> Result<(), push::Error> {
        let url = push.url.clone();
        self.ids.push((url, self.pushes.add(push)?));
        Ok(())
    }

    /// Returns whether every push has ended or failed for good.
    pub(super) fn are_finished(&self) -> bool {
        self.pushes.statuses().iter().all(|push| matches!(push.state, State::Failed | State::Idle))
    }

    /// Applies a change; returns an event if it was refused, which affects nothing else.
    pub(super) fn apply_change(&mut self, change: Change) -> Option<PushEvent> {
        match change {
            Change::AddPush(push) => {
                let url = push.url.clone();
                self.add(push).err().map(|error| refused_event(&url, &error))
            }
            Change::RemovePush(url) => {
                let mut known = self.ids.iter().rev().filter(|(known, _)| *known == url);
                if !known.any(|(_, id)| self.pushes.remove(*id)) {
                    tracing::warn!(%url, "push to remove not found");
                }
                self.ids.retain(|(known, _)| *known != url);
                None
            }
            Change::Snapshot(_) | Change::PublishUntil(_) => None,
        }
    }

    /// Stops all pushes for good.
    pub(super) fn stop_all(&mut self) {
        for (_, id) in self.ids.drain(..) {
            // One that has ended by itself is gone already.
            let _removed = self.pushes.remove(id);
        }
    }

    /// Returns the events since the last call.
    pub(super) fn events(&self) -> impl Iterator<Item = PushEvent> + '_ {
        self.events.try_iter().map(Into::into)
    }

    /// Stops the pushes after the last packet; returns their reports and their last events.
    pub(super) fn finish(self) -> (Vec<PushReport>, Vec<PushEvent>) {
        let states = self.pushes.finish();
        (states.into_iter().map(Into::into).collect(), self.events.try_iter().map(Into::into).collect())
    }
}

/// Applies a change to pushes that have not started; returns an event if it was refused.
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
        Change::Snapshot(_) | Change::PublishUntil(_) => None,
    }
}

fn refused_event(url: &PushUrl, error: &push::Error) -> PushEvent {
    PushEvent { id: 0, url: url.to_string(), state: State::Failed, error: Some(error.to_string()) }
}
