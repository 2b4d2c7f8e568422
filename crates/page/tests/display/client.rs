//! A Wayland client that draws rectangles of one colour, for tests of the display.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use wayland_client::protocol::{wl_buffer, wl_callback, wl_registry};
use wayland_client::protocol::{
    wl_buffer::WlBuffer, wl_callback::WlCallback, wl_compositor::WlCompositor,
    wl_data_device_manager::WlDataDeviceManager, wl_data_source::WlDataSource, wl_region::WlRegion,
    wl_registry::WlRegistry, wl_shm::Format, wl_shm::WlShm, wl_shm_pool::WlShmPool,
    wl_subcompositor::WlSubcompositor, wl_subsurface::WlSubsurface, wl_surface::WlSurface,
};
use wayland_client::{Connection, Dispatch, EventQueue, Proxy, QueueHandle, delegate_noop};
use wayland_protocols::wp::fractional_scale::v1::client::{
    wp_fractional_scale_manager_v1::WpFractionalScaleManagerV1,
    wp_fractional_scale_v1::{self, WpFractionalScaleV1},
};
use wayland_protocols::wp::presentation_time::client::{
    wp_presentation::WpPresentation,
    wp_presentation_feedback::{self, WpPresentationFeedback},
};
use wayland_protocols::wp::viewporter::client::{wp_viewport::WpViewport, wp_viewporter::WpViewporter};
use wayland_protocols::xdg::shell::client::{
    xdg_popup::XdgPopup,
    xdg_positioner::{Anchor, Gravity, XdgPositioner},
    xdg_surface::{self, XdgSurface},
    xdg_toplevel::{self, XdgToplevel},
    xdg_wm_base::{self, XdgWmBase},
};

/// Events that the display has sent.
#[derive(Debug, Default)]
pub(crate) struct ReceivedEvents {
    globals: Vec<(u32, String, u32)>,
    pub(crate) configured: Option<(i32, i32)>,
    pub(crate) activated: bool,
    pub(crate) frames_done: u32,
    pub(crate) released: u32,
    /// Time stamp and refresh interval in nanoseconds.
    pub(crate) presented: Vec<(u64, u32)>,
    pub(crate) preferred_scale: Option<u32>,
}

/// A connected client.
pub(crate) struct Client {
    pub(crate) connection: Connection,
    pub(crate) queue: EventQueue<ReceivedEvents>,
    pub(crate) received: ReceivedEvents,
    pub(crate) compositor: WlCompositor,
    pub(crate) shm: WlShm,
    pub(crate) subcompositor: WlSubcompositor,
    pub(crate) wm_base: XdgWmBase,
    pub(crate) presentation: WpPresentation,
    pub(crate) fractional_scale_manager: WpFractionalScaleManagerV1,
    pub(crate) viewporter: WpViewporter,
    pub(crate) data_device_manager: WlDataDeviceManager,
}

/// A toplevel window.
pub(crate) struct Window {
    pub(crate) surface: WlSurface,
    pub(crate) xdg: XdgSurface,
    pub(crate) toplevel: XdgToplevel,
}

impl Client {
    pub(crate) fn connect(socket: &Path) -> Self {
        let connection = Connection::from_socket(UnixStream::connect(socket).unwrap()).unwrap();
        let mut queue = connection.new_event_queue();
        let handle = queue.handle();
        let registry = connection.display().get_registry(&handle, ());
        let mut received = ReceivedEvents::default();
        queue.roundtrip(&mut received).unwrap();
        Self {
            compositor: bind(&registry, &received, &handle),
            shm: bind(&registry, &received, &handle),
            subcompositor: bind(&registry, &received, &handle),
            wm_base: bind(&registry, &received, &handle),
            presentation: bind(&registry, &received, &handle),
            fractional_scale_manager: bind(&registry, &received, &handle),
            viewporter: bind(&registry, &received, &handle),
            data_device_manager: bind(&registry, &received, &handle),
            connection,
            queue,
            received,
        }
    }

    /// The display's name (a number) for one of its globals.
    pub(crate) fn global(&self, interface: &str) -> u32 {
        self.received.globals.iter().find(|g| g.1 == interface).unwrap().0
    }

    pub(crate) fn handle(&self) -> QueueHandle<ReceivedEvents> {
        self.queue.handle()
    }

    /// Waits until the display has handled everything sent so far.
    pub(crate) fn roundtrip(&mut self) {
        self.flush();
        self.queue.roundtrip(&mut self.received).unwrap();
    }

    /// Sends everything, however long the display takes to read it; false if it has closed the connection.
    pub(crate) fn flush(&self) -> bool {
        use wayland_client::backend::WaylandError;
        loop {
            match self.connection.flush() {
                Ok(()) => return true,
                Err(WaylandError::Io(e)) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(_) => return false,
            }
        }
    }

    /// Whether the display closes the connection within a second.
    pub(crate) fn is_disconnected(&mut self) -> bool {
        (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(5));
            self.queue.roundtrip(&mut self.received).is_err()
        })
    }

    /// Waits until `done` holds.
    pub(crate) fn wait_until(&mut self, done: impl Fn(&ReceivedEvents) -> bool) {
        while !done(&self.received) {
            self.queue.blocking_dispatch(&mut self.received).unwrap();
        }
    }

    /// Creates a window, and waits until it is configured.
    pub(crate) fn create_window(&mut self) -> Window {
        let handle = self.handle();
        let surface = self.compositor.create_surface(&handle, ());
        let xdg = self.wm_base.get_xdg_surface(&surface, &handle, ());
        let toplevel = xdg.get_toplevel(&handle, ());
        surface.commit();
        self.wait_until(|t| t.configured.is_some());
        Window { surface, xdg, toplevel }
    }

    /// Creates a popup of `size` at `at` on the window, filled with a colour.
    pub(crate) fn create_popup(
        &mut self,
        window: &Window,
        at: (i32, i32),
        size: (i32, i32),
        colour: u32,
    ) -> (XdgPopup, WlSurface) {
        let handle = self.handle();
        let positioner = self.wm_base.create_positioner(&handle, ());
        positioner.set_size(size.0, size.1);
        positioner.set_anchor_rect(at.0, at.1, 1, 1);
        positioner.set_anchor(Anchor::TopLeft);
        positioner.set_gravity(Gravity::BottomRight);
        let surface = self.compositor.create_surface(&handle, ());
        let xdg = self.wm_base.get_xdg_surface(&surface, &handle, ());
        let popup = xdg.get_popup(Some(&window.xdg), &positioner, &handle, ());
        surface.commit();
        self.roundtrip();
        self.paint(&surface, size, colour);
        (popup, surface)
    }

    /// Attaches and commits a buffer of one colour (ARGB), all of it damaged.
    pub(crate) fn paint(&mut self, surface: &WlSurface, size: (i32, i32), colour: u32) {
        let buffer = self.create_buffer(size, |_, _| colour);
        surface.attach(Some(&buffer), 0, 0);
        surface.damage_buffer(0, 0, size.0, size.1);
        surface.commit();
        self.roundtrip();
    }

    /// A buffer with the pixels (ARGB) that `pixel` returns for column and row.
    pub(crate) fn create_buffer(&self, size: (i32, i32), pixel: impl Fn(i32, i32) -> u32) -> WlBuffer {
        let bytes: Vec<u8> = (0..size.1)
            .flat_map(|y| (0..size.0).map(move |x| (x, y)))
            .flat_map(|(x, y)| pixel(x, y).to_le_bytes())
            .collect();
        let file = create_memfd(&bytes);
        let handle = self.handle();
        let pool = self.shm.create_pool(file.as_fd(), bytes.len() as i32, &handle, ());
        let buffer = pool.create_buffer(0, size.0, size.1, size.0 * 4, Format::Argb8888, &handle, ());
        pool.destroy();
        buffer
    }
}

/// An anonymous file with these contents.
pub(crate) fn create_memfd(bytes: &[u8]) -> OwnedFd {
    let fd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&fd, bytes.len() as u64).unwrap();
    let mut written = 0;
    while written < bytes.len() {
        written += rustix::io::pwrite(&fd, &bytes[written..], written as u64).unwrap();
    }
    fd
}

fn bind<I: Proxy + 'static>(
    registry: &WlRegistry,
    received: &ReceivedEvents,
    handle: &QueueHandle<ReceivedEvents>,
) -> I
where
    ReceivedEvents: Dispatch<I, ()>,
{
    let interface = I::interface().name;
    let (name, _, version) = received.globals.iter().find(|g| g.1 == interface).unwrap();
    registry.bind(*name, (*version).min(I::interface().version), handle, ())
}

macro_rules! listen {
    ($interface:ty, |$received:ident, $proxy:ident, $event:ident| $body:expr) => {
        impl Dispatch<$interface, ()> for ReceivedEvents {
            fn event(
                $received: &mut Self,
                $proxy: &$interface,
                $event: <$interface as Proxy>::Event,
                _: &(),
                _: &Connection,
                _: &QueueHandle<Self>,
            ) {
                $body;
            }
        }
    };
}

listen!(
    WlRegistry,
    |received, _proxy, event| if let wl_registry::Event::Global { name, interface, version } = event {
        received.globals.push((name, interface, version));
    }
);
listen!(XdgWmBase, |_received, proxy, event| if let xdg_wm_base::Event::Ping { serial } = event {
    proxy.pong(serial);
});
listen!(XdgSurface, |_received, proxy, event| if let xdg_surface::Event::Configure { serial } = event {
    proxy.ack_configure(serial);
});
listen!(XdgToplevel, |received, _proxy, event| if let xdg_toplevel::Event::Configure {
    width,
    height,
    states,
} = event
{
    received.configured = Some((width, height));
    received.activated =
        states.chunks_exact(4).any(|s| s == (xdg_toplevel::State::Activated as u32).to_ne_bytes());
});
listen!(WlCallback, |received, _proxy, event| if let wl_callback::Event::Done { .. } = event {
    received.frames_done += 1;
});
listen!(WlBuffer, |received, proxy, event| if let wl_buffer::Event::Release = event {
    received.released += 1;
    proxy.destroy();
});
listen!(WpPresentationFeedback, |received, _proxy, event| {
    if let wp_presentation_feedback::Event::Presented { tv_sec_lo, tv_nsec, refresh, .. } = event {
        received.presented.push((u64::from(tv_sec_lo) * 1_000_000_000 + u64::from(tv_nsec), refresh));
    }
});
listen!(WpFractionalScaleV1, |received, _proxy, event| {
    if let wp_fractional_scale_v1::Event::PreferredScale { scale } = event {
        received.preferred_scale = Some(scale);
    }
});

delegate_noop!(ReceivedEvents: WlCompositor);
delegate_noop!(ReceivedEvents: WlSubcompositor);
delegate_noop!(ReceivedEvents: WlDataDeviceManager);
delegate_noop!(ReceivedEvents: ignore WlDataSource);
delegate_noop!(ReceivedEvents: WlSubsurface);
delegate_noop!(ReceivedEvents: WlRegion);
delegate_noop!(ReceivedEvents: WlShmPool);
delegate_noop!(ReceivedEvents: WpFractionalScaleManagerV1);
delegate_noop!(ReceivedEvents: WpViewporter);
delegate_noop!(ReceivedEvents: WpViewport);
delegate_noop!(ReceivedEvents: ignore WlShm);
delegate_noop!(ReceivedEvents: ignore WlSurface);
delegate_noop!(ReceivedEvents: ignore WpPresentation);
delegate_noop!(ReceivedEvents: ignore XdgPopup);
delegate_noop!(ReceivedEvents: XdgPositioner);
