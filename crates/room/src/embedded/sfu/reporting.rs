//! Statistics of rooms, and the states that viewers subscribe to.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::layer_selector::LayerPreference;
use super::super::stats::{LayerStats, PublisherStats, RoomStats, ViewerStats};
use super::super::viewer_state::{LayersEvent, ViewerState};
use super::{RoleState, SessionId, Sfu};

impl Sfu {
    /// Updates the state of each viewer for its subscribers.
    pub(super) fn publish_viewer_states(&mut self, now: Instant) {
        let rooms: Vec<(Vec<SessionId>, Vec<SessionId>)> =
            self.rooms.values().map(|room| (room.publishers.clone(), room.viewers.clone())).collect();
        for (publishers, viewers) in rooms {
            let publishers: HashMap<SessionId, PublisherStats> =
                publishers.into_iter().filter_map(|id| Some((id, self.publisher_stats(now, id)?))).collect();
            for id in &viewers {
                let Some(RoleState::Viewer(viewer)) = self.role_state(*id) else { continue };
                let (source, current_layer, requested_layer) =
                    (viewer.publisher, viewer.current_layer(), preference_name(&viewer.preference));
                let publisher = source.and_then(|source| publishers.get(&source));
                let layers =
                    publisher.map(|publisher| publisher.layers.iter().map(rounded_layer_stats).collect());
                let current_layer = current_layer.and_then(|layer| self.layer_name(source, layer));
                let layers = layers.unwrap_or_default();
                let state = ViewerState {
                    active: publisher.is_some_and(|publisher| publisher.active),
                    layers: LayersEvent { current_layer, requested_layer, layers },
                    viewer_count: viewers.len(),
                };
                if let Some(RoleState::Viewer(viewer)) = self.role_state(*id) {
                    viewer.state_sender.send_if_modified(|known| {
                        let changed = *known != state;
                        *known = state;
                        changed
                    });
                }
            }
        }
    }

    /// Statistics of all rooms, sorted by name.
    pub(in super::super) fn stats(&mut self, now: Instant) -> Vec<RoomStats> {
        let rooms: Vec<(Arc<str>, Vec<SessionId>, Vec<SessionId>)> = self
            .rooms
            .iter()
            .map(|(name, room)| (Arc::clone(name), room.publishers.clone(), room.viewers.clone()))
            .collect();
        let mut all = Vec::new();
        for (name, publishers, viewers) in rooms {
            all.push(RoomStats {
                room: name.to_string(),
                publishers: publishers.into_iter().filter_map(|id| self.publisher_stats(now, id)).collect(),
                viewers: viewers.into_iter().filter_map(|id| self.viewer_stats(now, id)).collect(),
            });
        }
        all
    }

    fn publisher_stats(&mut self, now: Instant, id: SessionId) -> Option<PublisherStats> {
        let room = Arc::clone(&self.sessions.get(&id)?.room);
        let layers: Vec<usize> =
            self.rooms.get(&room)?.viewers.iter().filter_map(|viewer| self.layer_sent(*viewer, id)).collect();
        let session = self.sessions.get_mut(&id)?;
        let RoleState::Publisher(publisher) = &mut session.state else { return None };
        let mut stats = publisher.stats(now, |layer| layers.iter().filter(|known| **known == layer).count());
        stats.rtt_ms = session.link_stats.rtt.map(rounded_ms);
        stats.loss = session.link_stats.loss.map(f64::from);
        Some(stats)
    }

    /// The layer of this publisher that a viewer gets.
    fn layer_sent(&self, viewer: SessionId, publisher: SessionId) -> Option<usize> {
        match &self.sessions.get(&viewer)?.state {
            RoleState::Viewer(viewer) if viewer.publisher == Some(publisher) => viewer.current_layer(),
            _ => None,
        }
    }

    fn viewer_stats(&mut self, now: Instant, id: SessionId) -> Option<ViewerStats> {
        let session = self.sessions.get_mut(&id)?;
        let (rtt, loss) = (session.link_stats.rtt, session.link_stats.loss);
        let RoleState::Viewer(viewer) = &mut session.state else { return None };
        let (source, layer) = (viewer.publisher, viewer.current_layer());
        let mut stats = ViewerStats {
            id: viewer.id,
            publisher: None,
            layer: None,
            requested_layer: preference_name(&viewer.preference),
            bitrate_bps: viewer.sent_meter.bps(now),
            estimate_bps: viewer.capacity_bps(now),
            rtt_ms: rtt.map(rounded_ms),
            loss: loss.map(f64::from),
        };
        stats.layer = layer.and_then(|layer| self.layer_name(source, layer));
        if let Some(RoleState::Publisher(publisher)) = source.and_then(|source| self.role_state(source)) {
            stats.publisher = Some(publisher.user.clone());
        }
        Some(stats)
    }

    fn layer_name(&self, source: Option<SessionId>, layer: usize) -> Option<String> {
        match &self.sessions.get(&source?)?.state {
            RoleState::Publisher(publisher) => Some(publisher.layer_name(layer)),
            RoleState::Viewer(_) => None,
        }
    }
}

/// Statistics of a layer with rounded values: exact ones would cause an event at every tick.
fn rounded_layer_stats(layer: &LayerStats) -> LayerStats {
    let step_bps = 100_000;
    LayerStats {
        bitrate_bps: layer.bitrate_bps.next_multiple_of(step_bps),
        fps: layer.fps.round(),
        viewers: 0,
        ..layer.clone()
    }
}

fn preference_name(preference: &LayerPreference) -> Option<String> {
    match preference {
        LayerPreference::Auto => None,
        LayerPreference::Layer(name) => Some(name.clone()),
    }
}

fn rounded_ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}
