//! Turns the window, popups and subsurfaces of the browser into layers, applies their commits, and answers
//! them.

use std::collections::HashMap;
use std::time::Duration;

use pagecast_core::HostTime;
use smithay::output::Output;
use smithay::reexports::wayland_protocols::wp::presentation_time::server::wp_presentation_feedback::Kind;
use smithay::reexports::wayland_server::Resource;
use smithay::reexports::wayland_server::backend::ObjectId;
use smithay::reexports::wayland_server::protocol::wl_buffer::WlBuffer;
use smithay::reexports::wayland_server::protocol::wl_callback::WlCallback;
use smithay::reexports::wayland_server::protocol::wl_surface::WlSurface;
use smithay::wayland::compositor::{
    BufferAssignment, Damage, SubsurfaceCachedState, SurfaceAttributes, TraversalAction, with_states,
    with_surface_tree_upward,
};
use smithay::wayland::presentation::{
    PresentationFeedbackCachedState, PresentationFeedbackCallback, Refresh,
};
use smithay::wayland::shell::xdg::{PopupSurface, SurfaceCachedState, ToplevelSurface};
use smithay::wayland::viewporter::ViewportCachedState;

use super::geometry::OutputGeometry;
use super::image::Rect;
use super::scene::{Layer, Scene};

/// Commits of one surface that are applied within a slot. Later ones wait for the next tick, and only the
/// newest is kept, so that a fast client cannot cause more work. With a limit of one, a browser that is ahead
/// by one frame would stay ahead: it commits the next frame as soon as the last one is answered.
const MAX_COMMITS_PER_SLOT: u32 = 4;
/// Most unanswered frame callbacks of one surface; a client with more is disconnected.
const MAX_PENDING_CALLBACKS: usize = 1024;
/// Memory for images, as a multiple of the screen; a client that needs more is disconnected.
const MAX_IMAGE_SCREENS: usize = 12;
/// Largest position and length, in pixels. Larger ones are cut: nothing so far off is visible.
const MAX_COORDINATE: i32 = 100_000;

/// Position in the tick grid, for answers to the client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    pub(crate) now: HostTime,
    pub(crate) slot: i64,
    pub(crate) tick: HostTime,
    pub(crate) interval: Duration,
}

/// Unanswered callbacks of a surface, and its content that waits for the next tick.
#[derive(Debug, Default)]
struct SurfaceState {
    slot: i64,
    commits: u32,
    frame_callbacks: Vec<WlCallback>,
    presentation_feedback: Vec<PresentationFeedbackCallback>,
    deferred: Option<SurfaceContent>,
}

/// Committed content of a surface: a buffer with its damage (`None`: everywhere), or none.
#[derive(Debug)]
enum SurfaceContent {
    Removed,
    Buffer(WlBuffer, Option<Vec<Rect>>),
}

/// Everything on the browser's screen.
#[derive(Debug)]
pub(crate) struct Screen {
    pub(crate) scene: Scene,
    pub(crate) output: Output,
    geometry: OutputGeometry,
    window: Option<ToplevelSurface>,
    popups: Vec<PopupSurface>,
    surfaces: HashMap<ObjectId, (WlSurface, SurfaceState)>,
    /// Whether the window or a part of it committed content since this was last cleared.
    pub(crate) window_committed: bool,
}

impl Screen {
    pub(crate) fn new(scene: Scene, output: Output, geometry: OutputGeometry) -> Self {
        Self {
            scene,
            output,
            geometry,
            window: None,
            popups: Vec::new(),
            surfaces: HashMap::new(),
            window_committed: false,
        }
    }

    /// Position and scale of the browser's screen.
    pub(crate) fn geometry(&self) -> &OutputGeometry {
        &self.geometry
    }

    /// Number of live surfaces.
    pub(crate) fn surface_count(&self) -> usize {
        self.surfaces.len()
    }

    /// Adds a window. Only the first one is shown; there should be no others.
    pub(crate) fn add_window(&mut self, window: ToplevelSurface) {
        if self.window.as_ref().is_none_or(|w| !w.alive()) {
            self.window = Some(window);
        }
    }

    /// The window that is shown.
    pub(crate) fn window(&self) -> Option<&ToplevelSurface> {
        self.window.as_ref().filter(|w| w.alive())
    }

    pub(crate) fn add_popup(&mut self, popup: PopupSurface) {
        self.popups.push(popup);
    }

    pub(crate) fn popup_of(&self, surface: &WlSurface) -> Option<&PopupSurface> {
        self.popups.iter().find(|p| p.wl_surface() == surface)
    }

    /// Origin of a surface's window geometry on the browser's screen, in logical pixels.
    pub(crate) fn origin_of(&self, surface: &WlSurface) -> (i32, i32) {
        let Some(popup) = self.popup_of(surface) else { return (0, 0) };
        let (mut x, mut y) = (0_i32, 0_i32);
        let mut at = Some(popup.clone());
        // Bounded, as a client could create a cycle of popups.
        for _ in 0..self.popups.len() {
            let Some(popup) = at else { break };
            let loc = popup.with_pending_state(|s| s.geometry.loc);
            x = x.saturating_add(loc.x);
            y = y.saturating_add(loc.y);
            at = popup.get_parent_surface().and_then(|p| self.popup_of(&p).cloned());
        }
        (x.clamp(-MAX_COORDINATE, MAX_COORDINATE), y.clamp(-MAX_COORDINATE, MAX_COORDINATE))
    }

    pub(crate) fn add_surface(&mut self, surface: &WlSurface) {
        self.surfaces.insert(surface.id(), (surface.clone(), SurfaceState::default()));
    }

    pub(crate) fn remove_surface(&mut self, surface: &WlSurface) {
        let id = surface.id();
        self.surfaces.remove(&id);
        self.scene.images.remove(&id);
        self.popups.retain(|p| p.wl_surface() != surface);
        self.update_layers();
    }

    /// Handles a commit of a surface. False if the client exceeds a limit.
    pub(crate) fn commit(&mut self, surface: &WlSurface, timing: Timing) -> bool {
        let (content, callbacks, feedback) = take_committed_state(surface, self.geometry.scale);
        let Some((_, state)) = self.surfaces.get_mut(&surface.id()) else { return true };
        if state.slot != timing.slot {
            state.slot = timing.slot;
            state.commits = 0;
        }
        state.frame_callbacks.extend(callbacks);
        state.presentation_feedback.extend(feedback);
        if state.frame_callbacks.len() > MAX_PENDING_CALLBACKS
            || state.presentation_feedback.len() > MAX_PENDING_CALLBACKS
        {
            return false;
        }
        let must_wait = state.commits >= MAX_COMMITS_PER_SLOT || state.deferred.is_some();
        if let Some(content) = content {
            if must_wait {
                let damage_unknown = match content {
                    SurfaceContent::Buffer(buffer, _) => SurfaceContent::Buffer(buffer, None),
                    SurfaceContent::Removed => SurfaceContent::Removed,
                };
                if let Some(SurfaceContent::Buffer(skipped, _)) = state.deferred.replace(damage_unknown) {
                    skipped.release();
                }
                return true;
            }
            state.commits += 1;
            self.apply_content(surface, content);
        } else if must_wait {
            return true;
        }
        self.update_layers();
        self.complete_callbacks(&surface.id(), timing);
        self.used_screens() <= MAX_IMAGE_SCREENS
    }

    /// Handles a tick: applies deferred content, and answers callbacks.
    pub(crate) fn handle_tick(&mut self, timing: Timing) {
        let waiting: Vec<WlSurface> = self
            .surfaces
            .values()
            .filter(|(_, s)| {
                s.deferred.is_some() || !s.frame_callbacks.is_empty() || !s.presentation_feedback.is_empty()
            })
            .map(|(surface, _)| surface.clone())
            .collect();
        for surface in waiting {
            if let Some((_, state)) = self.surfaces.get_mut(&surface.id()) {
                state.slot = timing.slot;
                state.commits = 0;
                if let Some(content) = state.deferred.take() {
                    state.commits = 1;
                    self.apply_content(&surface, content);
                    self.update_layers();
                }
            }
            self.complete_callbacks(&surface.id(), timing);
        }
    }

    /// Whether something waits for the next tick.
    pub(crate) fn has_pending(&self) -> bool {
        self.surfaces.values().any(|(_, s)| {
            s.deferred.is_some() || !s.frame_callbacks.is_empty() || !s.presentation_feedback.is_empty()
        })
    }

    /// Copies the content, and releases the buffer.
    fn apply_content(&mut self, surface: &WlSurface, content: SurfaceContent) {
        let id = surface.id();
        match content {
            SurfaceContent::Removed => {
                self.scene.images.remove(&id);
            }
            SurfaceContent::Buffer(buffer, damage) => {
                let mut image = self.scene.images.remove(&id).unwrap_or_default();
                let mut changed = Vec::new();
                let max = self.scene.size();
                if let Err(reason) = image.update(&buffer, damage.as_deref(), max, |part| changed.push(part))
                {
                    tracing::debug!(%reason, "display buffer rejected");
                }
                self.scene.images.insert(id.clone(), image);
                for part in changed {
                    self.scene.mark_dirty(&id, part);
                }
                buffer.release();
            }
        }
        self.window_committed |= self.popups.is_empty() || !self.is_popup(surface);
    }

    fn is_popup(&self, surface: &WlSurface) -> bool {
        let mut root = surface.clone();
        while let Some(parent) = smithay::wayland::compositor::get_parent(&root) {
            root = parent;
        }
        self.popup_of(&root).is_some()
    }

    /// Answers frame callbacks immediately, so that the client may draw the next frame. Presentation times
    /// lie on the tick grid, so that the browser begins its frames there.
    fn complete_callbacks(&mut self, id: &ObjectId, timing: Timing) {
        let Some((_, state)) = self.surfaces.get_mut(id) else { return };
        let millis = u32::try_from(timing.now.0 / 1_000_000 % (1 << 32)).unwrap_or(0);
        for callback in state.frame_callbacks.drain(..) {
            callback.done(millis);
        }
        let tick = Duration::from_nanos(u64::try_from(timing.tick.0).unwrap_or(0));
        for feedback in state.presentation_feedback.drain(..) {
            let sequence = u64::try_from(timing.slot).unwrap_or(0);
            feedback.presented(&self.output, tick, Refresh::Fixed(timing.interval), sequence, Kind::Vsync);
        }
    }

    /// Recomputes the layers from the window and its popups.
    fn update_layers(&mut self) {
        let mut layers = Vec::new();
        if let Some(window) = self.window() {
            let geometry = window_geometry(window.wl_surface());
            self.push_surface_tree(window.wl_surface(), (-geometry.0, -geometry.1), &mut layers);
        }
        for popup in &self.popups {
            let surface = popup.wl_surface();
            let (at, geometry) = (self.origin_of(surface), window_geometry(surface));
            self.push_surface_tree(surface, (at.0 - geometry.0, at.1 - geometry.1), &mut layers);
        }
        self.scene.set_layers(layers);
    }

    /// Adds a surface and its subsurfaces, bottom first; `at` is in logical pixels.
    fn push_surface_tree(&self, root: &WlSurface, at: (i32, i32), layers: &mut Vec<Layer>) {
        with_surface_tree_upward(
            root,
            at,
            |_, states, at| TraversalAction::DoChildren(add_offset(*at, subsurface_location(states))),
            |surface, states, at| {
                let at = add_offset(*at, subsurface_location(states));
                if let Some(image) = self.scene.images.get(&surface.id()) {
                    let area = self.surface_area(states, at, (image.width, image.height));
                    layers.push(Layer { surface: surface.id(), area });
                }
            },
            |_, _, _| true,
        );
    }

    fn surface_area(
        &self,
        states: &smithay::wayland::compositor::SurfaceData,
        at: (i32, i32),
        image: (u32, u32),
    ) -> Rect {
        let OutputGeometry { area: output, scale, .. } = self.geometry;
        let scaled = |v: i32| ((f64::from(v) * scale).round() as i32).clamp(-MAX_COORDINATE, MAX_COORDINATE);
        let viewport = states.cached_state.get::<ViewportCachedState>().current().dst;
        let buffer_scale =
            f64::from(states.cached_state.get::<SurfaceAttributes>().current().buffer_scale.max(1));
        let side = |pixels: u32| (f64::from(pixels) / buffer_scale * scale).round() as i32;
        let (width, height) = match viewport {
            Some(size) => (scaled(size.w), scaled(size.h)),
            None => (side(image.0), side(image.1)),
        };
        Rect { x: output.x + scaled(at.0), y: output.y + scaled(at.1), width, height }
    }

    /// Memory of all images, as a multiple of the screen.
    fn used_screens(&self) -> usize {
        let (width, height) = self.scene.size();
        let bytes: usize = self.scene.images.values().map(|i| i.bgra.len()).sum();
        bytes / (width as usize * height as usize * 4)
    }
}

fn add_offset(a: (i32, i32), b: (i32, i32)) -> (i32, i32) {
    (
        a.0.saturating_add(b.0).clamp(-MAX_COORDINATE, MAX_COORDINATE),
        a.1.saturating_add(b.1).clamp(-MAX_COORDINATE, MAX_COORDINATE),
    )
}

fn subsurface_location(states: &smithay::wayland::compositor::SurfaceData) -> (i32, i32) {
    if states.role != Some("subsurface") {
        return (0, 0);
    }
    let at = states.cached_state.get::<SubsurfaceCachedState>().current().location;
    (at.x, at.y)
}

fn window_geometry(surface: &WlSurface) -> (i32, i32) {
    with_states(surface, |states| {
        let geometry = states.cached_state.get::<SurfaceCachedState>().current().geometry;
        geometry.map_or((0, 0), |g| {
            (g.loc.x.clamp(-MAX_COORDINATE, MAX_COORDINATE), g.loc.y.clamp(-MAX_COORDINATE, MAX_COORDINATE))
        })
    })
}

type CommittedState = (Option<SurfaceContent>, Vec<WlCallback>, Vec<PresentationFeedbackCallback>);

/// Takes content, callbacks and feedback requests of a surface's last commit.
fn take_committed_state(surface: &WlSurface, screen_scale: f64) -> CommittedState {
    with_states(surface, |states| {
        let viewport = *states.cached_state.get::<ViewportCachedState>().current();
        let mut guard = states.cached_state.get::<SurfaceAttributes>();
        let attributes = guard.current();
        let callbacks = std::mem::take(&mut attributes.frame_callbacks);
        let damage = std::mem::take(&mut attributes.damage);
        // With a viewport the buffer has the scale of the screen, otherwise its own.
        let scale = viewport.dst.map_or(f64::from(attributes.buffer_scale.max(1)), |_| screen_scale);
        let content = attributes.buffer.take().map(|assignment| match assignment {
            BufferAssignment::Removed => SurfaceContent::Removed,
            BufferAssignment::NewBuffer(buffer) => {
                let is_cropped = viewport.src.is_some();
                SurfaceContent::Buffer(buffer, (!is_cropped).then(|| damage_in_pixels(&damage, scale)))
            }
        });
        drop(guard);
        let feedback = std::mem::take(
            &mut states.cached_state.get::<PresentationFeedbackCachedState>().current().callbacks,
        );
        (content, callbacks, feedback)
    })
}

/// Damage in buffer pixels. Surface damage is widened by a pixel, as the scale may be fractional.
fn damage_in_pixels(damage: &[Damage], scale: f64) -> Vec<Rect> {
    damage
        .iter()
        .map(|d| match d {
            Damage::Buffer(r) => Rect { x: r.loc.x, y: r.loc.y, width: r.size.w, height: r.size.h },
            Damage::Surface(r) => {
                let start = |v: i32| ((f64::from(v) * scale).floor() as i32).saturating_sub(1);
                let length = |v: i32| ((f64::from(v) * scale).ceil() as i32).saturating_add(3);
                Rect {
                    x: start(r.loc.x),
                    y: start(r.loc.y),
                    width: length(r.size.w),
                    height: length(r.size.h),
                }
            }
        })
        .collect()
}
