//! Handlers for the Wayland protocols that the browser needs. There is no user input.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pagecast_core::HostTime;
use smithay::delegate_fractional_scale;
use smithay::delegate_output;
use smithay::delegate_presentation;
use smithay::delegate_seat;
use smithay::delegate_viewporter;
use smithay::delegate_xdg_shell;
use smithay::input::pointer::CursorImageStatus;
use smithay::input::{Seat, SeatHandler, SeatState};
use smithay::output::{Mode, Output, PhysicalProperties, Subpixel};
use smithay::reexports::wayland_protocols::xdg::shell::server::xdg_toplevel;
use smithay::reexports::wayland_server::backend::{ClientData, ClientId, DisconnectReason};
use smithay::reexports::wayland_server::protocol::wl_buffer::WlBuffer;
use smithay::reexports::wayland_server::protocol::wl_seat::WlSeat;
use smithay::reexports::wayland_server::protocol::wl_surface::WlSurface;
use smithay::reexports::wayland_server::{Client, DisplayHandle};
use smithay::utils::{Rectangle, Serial};
use smithay::wayland::buffer::BufferHandler;
use smithay::wayland::compositor::{CompositorClientState, CompositorHandler, CompositorState, with_states};
use smithay::wayland::fractional_scale::{
    FractionalScaleHandler, FractionalScaleManagerState, with_fractional_scale,
};
use smithay::wayland::output::{OutputHandler, OutputManagerState};
use smithay::wayland::presentation::PresentationState;
use smithay::wayland::selection::SelectionHandler;
use smithay::wayland::selection::data_device::{
    ClientDndGrabHandler, DataDeviceHandler, DataDeviceState, ServerDndGrabHandler,
};
use smithay::wayland::shell::xdg::{
    PopupSurface, PositionerState, ToplevelSurface, XdgShellHandler, XdgShellState,
};
use smithay::wayland::shm::{ShmHandler, ShmState};
use smithay::wayland::viewporter::ViewporterState;

use super::geometry::OutputGeometry;
use super::scene::Scene;
use super::screen::Screen;
use super::{Config, TickEmitter, limits, pacer};
use crate::clock;

/// Clock of presentation time stamps: CLOCK_MONOTONIC, which [`crate::clock::now`] reads.
const CLOCK_MONOTONIC: u32 = 1;

/// State of the Wayland globals, and the screen.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) screen: Screen,
    pub(crate) emitter: TickEmitter,
    /// Time of the last [`State::advance`]: the slots that were over then are closed.
    now: HostTime,
    /// Frames that were committed to the window so far.
    pub(crate) commits: u64,
    compositor: CompositorState,
    shm: ShmState,
    xdg_shell: XdgShellState,
    seats: SeatState<Self>,
    data_device: DataDeviceState,
}

impl State {
    /// Creates all globals on `display`.
    pub(crate) fn new(display: &DisplayHandle, config: &Config, emitter: TickEmitter) -> Self {
        let geometry = match config.viewport {
            Some(viewport) => OutputGeometry::letterboxed(config.size, viewport),
            None => OutputGeometry::full_output(config.size, config.scale_factor),
        };
        let properties = PhysicalProperties {
            size: (0, 0).into(),
            subpixel: Subpixel::None,
            make: "Pagecast".into(),
            model: "display".into(),
        };
        let output = Output::new("pagecast".into(), properties);
        let refresh = i32::try_from(config.fps.get() * 1000).unwrap_or(60_000);
        let mode = Mode { size: (geometry.area.width, geometry.area.height).into(), refresh };
        let scale = smithay::output::Scale::Fractional(geometry.scale);
        output.change_current_state(Some(mode), None, Some(scale), Some((0, 0).into()));
        output.set_preferred(mode);
        output.create_global::<Self>(display);
        // Without xdg-output, clients round the scale up, and pages see a screen that is smaller than their
        // window.
        OutputManagerState::new_with_xdg_output::<Self>(display);
        let mut seats = SeatState::new();
        // A pointer exists, so that pages detect a desktop, but it never enters: no cursor, no hover.
        seats.new_wl_seat(display, "pagecast").add_pointer();
        ViewporterState::new::<Self>(display);
        PresentationState::new::<Self>(display, CLOCK_MONOTONIC);
        FractionalScaleManagerState::new::<Self>(display);
        Self {
            screen: Screen::new(Scene::new(config.size, geometry.area), output, geometry),
            emitter,
            now: clock::now(),
            commits: 0,
            compositor: CompositorState::new::<Self>(display),
            shm: ShmState::new::<Self>(display, []),
            xdg_shell: XdgShellState::new::<Self>(display),
            data_device: DataDeviceState::new::<Self>(display),
            seats,
        }
    }

    /// Closes the slots that are over at `now`: sends the ticks they owe, and applies commits that waited for
    /// a tick.
    pub(crate) fn advance(&mut self, now: HostTime) {
        self.now = now;
        self.emitter.update_latency(now);
        self.carry_out_pacing();
    }

    /// Calls [`State::advance`] if a slot is over, so that many requests at once cannot delay ticks.
    pub(crate) fn advance_if_due(&mut self) {
        let now = clock::now();
        if self.emitter.pacer.deadline().is_some_and(|end| end <= now) {
            self.advance(now);
        }
    }

    /// When [`State::advance`] is due; `None` if nothing waits for a tick.
    pub(crate) fn deadline(&self) -> Option<HostTime> {
        let needed = self.emitter.pacer.is_capturing() || self.screen.has_pending();
        self.emitter.pacer.deadline().filter(|_| needed)
    }

    /// Starts the capture if that was requested.
    pub(crate) fn start_capture_if_requested(&mut self) {
        if self.emitter.must_start_capture() {
            self.emitter.pacer.handle(self.now, pacer::Input::StartCapture);
            self.carry_out_pacing();
        }
    }

    /// Sends the tick of this slot immediately if the window has committed its frame.
    pub(crate) fn emit_if_committed(&mut self) {
        if !std::mem::take(&mut self.screen.window_committed) {
            return;
        }
        self.commits += 1;
        self.emitter.update_latency(self.now);
        self.emitter.pacer.handle(self.now, pacer::Input::FrameCommitted);
        self.carry_out_pacing();
    }

    /// Carries out what the pacer decides.
    fn carry_out_pacing(&mut self) {
        while let Some(output) = self.emitter.pacer.poll(self.now) {
            match output {
                pacer::Output::CaptureStarted(origin) => self.emitter.origin.set(origin),
                pacer::Output::TicksDue(due) => self.emitter.emit_all(due, &mut self.screen.scene),
                pacer::Output::SlotStarted if self.screen.has_pending() => {
                    self.screen.handle_tick(self.emitter.timing(self.now));
                }
                pacer::Output::SlotStarted => {}
            }
        }
    }

    fn configure_window(&self, window: &ToplevelSurface) {
        window.with_pending_state(|state| {
            state.size = Some(self.screen.geometry().logical_size.into());
            state.states.set(xdg_toplevel::State::Fullscreen);
            state.states.set(xdg_toplevel::State::Activated);
        });
        window.send_configure();
        limits::check_pending_configures(window.wl_surface());
    }

    fn place_popup(&self, popup: &PopupSurface, positioner: PositionerState) {
        let parent = popup.get_parent_surface().map_or((0, 0), |p| self.screen.origin_of(&p));
        let screen =
            Rectangle::new((-parent.0, -parent.1).into(), self.screen.geometry().logical_size.into());
        let geometry = positioner.get_unconstrained_geometry(screen);
        popup.with_pending_state(|state| {
            state.geometry = geometry;
            state.positioner = positioner;
        });
    }
}

impl CompositorHandler for State {
    fn compositor_state(&mut self) -> &mut CompositorState {
        &mut self.compositor
    }

    fn client_compositor_state<'a>(&self, client: &'a Client) -> &'a CompositorClientState {
        // Every client is inserted with this data, see `display::accept`.
        &client.get_data::<ClientState>().expect("client without our data").compositor
    }

    fn new_surface(&mut self, surface: &WlSurface) {
        if self.screen.surface_count() >= limits::MAX_SURFACES {
            limits::disconnect(surface, "too many surfaces");
            return;
        }
        self.screen.add_surface(surface);
    }

    fn commit(&mut self, surface: &WlSurface) {
        if let Some(window) = self.screen.window()
            && window.wl_surface() == surface
            && !window.is_initial_configure_sent()
        {
            self.configure_window(window);
        }
        if let Some(popup) = self.screen.popup_of(surface)
            && !popup.is_initial_configure_sent()
        {
            // Fails only for a popup that was configured before.
            let _already_configured = popup.send_configure();
        }
        let now = clock::now();
        self.advance(now);
        if !self.screen.commit(surface, self.emitter.timing(now)) {
            limits::disconnect(surface, "image memory limit exceeded");
        }
    }

    fn destroyed(&mut self, surface: &WlSurface) {
        self.screen.remove_surface(surface);
    }
}

impl XdgShellHandler for State {
    fn xdg_shell_state(&mut self) -> &mut XdgShellState {
        &mut self.xdg_shell
    }

    fn new_toplevel(&mut self, surface: ToplevelSurface) {
        self.screen.add_window(surface);
    }

    fn new_popup(&mut self, surface: PopupSurface, positioner: PositionerState) {
        self.place_popup(&surface, positioner);
        self.screen.add_popup(surface);
    }

    fn grab(&mut self, _surface: PopupSurface, _seat: WlSeat, _serial: Serial) {}

    fn reposition_request(&mut self, surface: PopupSurface, positioner: PositionerState, token: u32) {
        self.place_popup(&surface, positioner);
        surface.send_repositioned(token);
        limits::check_pending_configures(surface.wl_surface());
    }

    fn maximize_request(&mut self, surface: ToplevelSurface) {
        self.configure_window(&surface);
    }

    fn unmaximize_request(&mut self, surface: ToplevelSurface) {
        self.configure_window(&surface);
    }

    fn fullscreen_request(
        &mut self,
        surface: ToplevelSurface,
        _output: Option<smithay::reexports::wayland_server::protocol::wl_output::WlOutput>,
    ) {
        self.configure_window(&surface);
    }

    fn unfullscreen_request(&mut self, surface: ToplevelSurface) {
        self.configure_window(&surface);
    }
}

impl FractionalScaleHandler for State {
    fn new_fractional_scale(&mut self, surface: WlSurface) {
        let scale = self.screen.geometry().scale;
        with_states(&surface, |states| with_fractional_scale(states, |f| f.set_preferred_scale(scale)));
    }
}

impl SeatHandler for State {
    type KeyboardFocus = WlSurface;
    type PointerFocus = WlSurface;
    type TouchFocus = WlSurface;

    fn seat_state(&mut self) -> &mut SeatState<Self> {
        &mut self.seats
    }

    fn focus_changed(&mut self, _seat: &Seat<Self>, _focused: Option<&WlSurface>) {}

    fn cursor_image(&mut self, _seat: &Seat<Self>, _image: CursorImageStatus) {}
}

impl ShmHandler for State {
    fn shm_state(&self) -> &ShmState {
        &self.shm
    }
}

impl BufferHandler for State {
    fn buffer_destroyed(&mut self, _buffer: &WlBuffer) {}
}

impl SelectionHandler for State {
    type SelectionUserData = ();
}

impl DataDeviceHandler for State {
    fn data_device_state(&self) -> &DataDeviceState {
        &self.data_device
    }
}

impl ClientDndGrabHandler for State {}
impl ServerDndGrabHandler for State {}
impl OutputHandler for State {}

delegate_fractional_scale!(State);
delegate_output!(State);
delegate_presentation!(State);
delegate_seat!(State);
delegate_viewporter!(State);
delegate_xdg_shell!(State);

/// Number of requests in one slot that allocated state.
#[derive(Debug, Default)]
struct RetainedRequests {
    slot: i64,
    count: u32,
}

/// Data of each connection.
#[derive(Debug, Default)]
pub(crate) struct ClientState {
    compositor: CompositorClientState,
    retained_requests: Mutex<RetainedRequests>,
    buffers: AtomicU32,
    /// Reference count of open connections.
    _alive: Arc<()>,
}

impl ClientState {
    pub(crate) fn new(alive: &Arc<()>) -> Self {
        Self { _alive: Arc::clone(alive), ..Self::default() }
    }

    /// Counts a new pool or buffer, and returns their number.
    pub(super) fn count_buffer(&self) -> u32 {
        self.buffers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Counts a destroyed pool or buffer.
    pub(super) fn uncount_buffer(&self) {
        self.buffers.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a request that allocates state, and returns their number in this slot.
    pub(super) fn count_retained_request(&self, slot: i64) -> u32 {
        let mut requests = self.retained_requests.lock().unwrap_or_else(PoisonError::into_inner);
        if requests.slot != slot {
            *requests = RetainedRequests { slot, count: 0 };
        }
        requests.count += 1;
        requests.count
    }
}

impl ClientData for ClientState {
    fn initialized(&self, _client: ClientId) {}

    fn disconnected(&self, client: ClientId, reason: DisconnectReason) {
        tracing::debug!(?client, ?reason, "display client disconnected");
    }
}
