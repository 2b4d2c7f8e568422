//! What the rooms tell of themselves.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::choice::Wish;
use super::super::news::{Layers, News};
use super::super::stats::{LayerStats, PublisherStats, RoomStats, ViewerStats};
use super::{Hub, Key, Role};

impl Hub {
    /// Tells all viewers what is new to them.
    pub(super) fn tell(&mut self, now: Instant) {
        let rooms: Vec<(Vec<Key>, Vec<Key>)> =
            self.rooms.values().map(|room| (room.publishers.clone(), room.viewers.clone())).collect();
        for (publishers, viewers) in rooms {
            let publishers: HashMap<Key, PublisherStats> = publishers
                .into_iter()
                .filter_map(|key| Some((key, self.publisher_stats(now, key)?)))
                .collect();
            for key in &viewers {
                let Some(Role::Viewer(viewer)) = self.role(*key) else { continue };
                let (source, current, wish) = (viewer.source, viewer.layer(), wished(&viewer.wish));
                let publisher = source.and_then(|source| publishers.get(&source));
                let layers = publisher.map(|publisher| publisher.layers.iter().map(steady).collect());
                let current = current.and_then(|layer| self.layer_name(source, layer));
                let news = News {
                    active: publisher.is_some_and(|publisher| publisher.active),
                    layers: Layers { current, wish, layers: layers.unwrap_or_default() },
                    viewers: viewers.len(),
                };
                if let Some(Role::Viewer(viewer)) = self.role(*key) {
                    viewer.news.send_if_modified(|known| {
                        let changed = *known != news;
                        *known = news;
                        changed
                    });
                }
            }
        }
    }

    /// All rooms, by name.
    pub(in super::super) fn stats(&mut self, now: Instant) -> Vec<RoomStats> {
        let rooms: Vec<(Arc<str>, Vec<Key>, Vec<Key>)> = self
            .rooms
            .iter()
            .map(|(name, room)| (Arc::clone(name), room.publishers.clone(), room.viewers.clone()))
            .collect();
        let mut all = Vec::new();
        for (name, publishers, viewers) in rooms {
            all.push(RoomStats {
                room: name.to_string(),
                publishers: publishers.into_iter().filter_map(|key| self.publisher_stats(now, key)).collect(),
                viewers: viewers.into_iter().filter_map(|key| self.viewer_stats(now, key)).collect(),
            });
        }
        all
    }

    fn publisher_stats(&mut self, now: Instant, key: Key) -> Option<PublisherStats> {
        let room = Arc::clone(&self.sessions.get(&key)?.room);
        let layers: Vec<usize> =
            self.rooms.get(&room)?.viewers.iter().filter_map(|viewer| self.gets(*viewer, key)).collect();
        let session = self.sessions.get_mut(&key)?;
        let Role::Publisher(publisher) = &mut session.role else { return None };
        let mut stats = publisher.stats(now, |layer| layers.iter().filter(|known| **known == layer).count());
        stats.rtt_ms = session.line.rtt.map(ms);
        stats.loss = session.line.loss.map(f64::from);
        Some(stats)
    }

    /// The layer that a viewer gets of this publisher.
    fn gets(&self, viewer: Key, publisher: Key) -> Option<usize> {
        match &self.sessions.get(&viewer)?.role {
            Role::Viewer(viewer) if viewer.source == Some(publisher) => viewer.layer(),
            _ => None,
        }
    }

    fn viewer_stats(&mut self, now: Instant, key: Key) -> Option<ViewerStats> {
        let session = self.sessions.get_mut(&key)?;
        let (rtt, loss) = (session.line.rtt, session.line.loss);
        let Role::Viewer(viewer) = &mut session.role else { return None };
        let (source, layer) = (viewer.source, viewer.layer());
        let mut stats = ViewerStats {
            id: viewer.id,
            watches: None,
            layer: None,
            wish: wished(&viewer.wish),
            bitrate_bps: viewer.sent.bps(now),
            estimate_bps: viewer.capacity(now),
            rtt_ms: rtt.map(ms),
            loss: loss.map(f64::from),
        };
        stats.layer = layer.and_then(|layer| self.layer_name(source, layer));
        if let Some(Role::Publisher(publisher)) = source.and_then(|source| self.role(source)) {
            stats.watches = Some(publisher.user.clone());
        }
        Some(stats)
    }

    fn layer_name(&self, source: Option<Key>, layer: usize) -> Option<String> {
        match &self.sessions.get(&source?)?.role {
            Role::Publisher(publisher) => Some(publisher.layer_name(layer)),
            Role::Viewer(_) => None,
        }
    }
}

/// A layer without what changes all the time: that would be news every quarter of a second.
fn steady(layer: &LayerStats) -> LayerStats {
    let rough = 100_000;
    LayerStats {
        bitrate_bps: layer.bitrate_bps.next_multiple_of(rough),
        fps: layer.fps.round(),
        viewers: 0,
        ..layer.clone()
    }
}

fn wished(wish: &Wish) -> Option<String> {
    match wish {
        Wish::Auto => None,
        Wish::Layer(name) => Some(name.clone()),
    }
}

fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}
