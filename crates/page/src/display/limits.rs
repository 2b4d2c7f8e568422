//! Limits on what one client may allocate. The protocol handlers of the library keep everything that a client
//! requests, so these checks run before them. A client beyond a limit is disconnected; no browser comes near
//! any limit.

use smithay::reexports::wayland_server::backend::protocol::ProtocolError;
use smithay::reexports::wayland_server::backend::{ClientId, DisconnectReason, Handle};
use smithay::reexports::wayland_server::protocol::wl_buffer::WlBuffer;
use smithay::reexports::wayland_server::protocol::wl_callback::WlCallback;
use smithay::reexports::wayland_server::protocol::wl_compositor::{self, WlCompositor};
use smithay::reexports::wayland_server::protocol::wl_data_device::WlDataDevice;
use smithay::reexports::wayland_server::protocol::wl_data_device_manager::WlDataDeviceManager;
use smithay::reexports::wayland_server::protocol::wl_data_source::{self, WlDataSource};
use smithay::reexports::wayland_server::protocol::wl_region::{self, WlRegion};
use smithay::reexports::wayland_server::protocol::wl_shm::{self, WlShm};
use smithay::reexports::wayland_server::protocol::wl_shm_pool::{self, WlShmPool};
use smithay::reexports::wayland_server::protocol::wl_subcompositor::WlSubcompositor;
use smithay::reexports::wayland_server::protocol::wl_subsurface::WlSubsurface;
use smithay::reexports::wayland_server::protocol::wl_surface::{self, WlSurface};
use smithay::reexports::wayland_server::{
    Client, DataInit, Dispatch, DisplayHandle, Resource, delegate_dispatch, delegate_global_dispatch,
};
use smithay::wayland::compositor::{
    CompositorState, RegionUserData, SubsurfaceUserData, SurfaceAttributes, SurfaceUserData,
    is_sync_subsurface, with_states,
};
use smithay::wayland::selection::data_device::{
    DataDeviceState, DataDeviceUserData, DataSourceUserData, with_source_metadata,
};
use smithay::wayland::shell::xdg::{XdgPopupSurfaceData, XdgToplevelSurfaceData};
use smithay::wayland::shm::{ShmBufferUserData, ShmPoolUserData, ShmState};

use super::protocol::{ClientState, State};

/// Most surfaces at a time.
pub(super) const MAX_SURFACES: usize = 256;
/// Most requests per slot that allocate state (objects, damage, regions, cached commits).
pub(super) const MAX_RETAINED_REQUESTS_PER_SLOT: u32 = 4096;
/// Most objects at a time, measured by the object ids, which clients use densely.
pub(super) const MAX_OBJECTS: u32 = 16_384;
/// Most pools and buffers at a time: each may keep a file descriptor open, of which the process has few.
const MAX_BUFFERS: u32 = 256;
/// Most damage rectangles between two commits. With more, the whole surface counts as damaged.
const MAX_DAMAGE_RECTS: usize = 256;
/// Most MIME types that a clipboard source may offer.
const MAX_MIME_TYPES: usize = 64;
/// Longest name of a MIME type, in bytes.
const MAX_MIME_TYPE_BYTES: usize = 256;
/// Most unacknowledged configure events of a window or popup.
const MAX_PENDING_CONFIGURES: usize = 64;

/// Disconnects the client that owns `resource`.
pub(super) fn disconnect(resource: &impl Resource, reason: &str) {
    tracing::warn!(reason, "display client disconnected");
    resource.post_error(u32::MAX, reason.to_owned());
}

/// Disconnects a client that has too many unacknowledged configure events for `surface`.
pub(super) fn check_pending_configures(surface: &WlSurface) {
    let pending = with_states(surface, |states| {
        let window = states.data_map.get::<XdgToplevelSurfaceData>();
        let popup = states.data_map.get::<XdgPopupSurfaceData>();
        let for_window = window.and_then(|w| Some(w.lock().ok()?.pending_configures().len()));
        let for_popup = popup.and_then(|p| Some(p.lock().ok()?.pending_configures().len()));
        for_window.or(for_popup).unwrap_or(0)
    });
    if pending > MAX_PENDING_CONFIGURES {
        disconnect(surface, "too many unacknowledged configures");
    }
}

/// Disconnects a client.
fn kill_client(client: &Client, display: &DisplayHandle, reason: &str) {
    tracing::warn!(reason, "display client disconnected");
    let error = ProtocolError {
        code: u32::MAX,
        object_id: 1,
        object_interface: "wl_display".into(),
        message: reason.into(),
    };
    client.kill(display, error);
}

fn all_clients(backend: &Handle) -> Vec<ClientId> {
    let mut clients = Vec::new();
    backend.with_all_clients(|client| clients.push(client));
    clients
}

/// Disconnects all clients after a malformed request: it is unknown which one sent it, and all belong to the
/// browser.
pub(super) fn disconnect_all(display: &DisplayHandle) {
    tracing::warn!(reason = "malformed request", "all display clients disconnected");
    let backend = display.backend_handle();
    for client in all_clients(&backend) {
        backend.kill_client(client, DisconnectReason::ConnectionClosed);
    }
}

/// Disconnects clients that have too many objects.
pub(super) fn check_object_counts(display: &DisplayHandle) {
    let backend = display.backend_handle();
    for client in all_clients(&backend) {
        let mut count = 0;
        // Fails for a client that has just disconnected.
        let _gone = backend.with_all_objects_for(client.clone(), |_| count += 1);
        if count > MAX_OBJECTS {
            tracing::warn!(reason = "too many objects", count, "display client disconnected");
            backend.kill_client(client, DisconnectReason::ConnectionClosed);
        }
    }
}

/// Implements `Dispatch` for `$interface` by checking limits before the request is passed on to `$to`.
macro_rules! limited {
    ($interface:ty, $data:ty => $to:ty) => {
        impl Dispatch<$interface, $data> for State {
            fn request(
                state: &mut Self,
                client: &Client,
                resource: &$interface,
                request: <$interface as Resource>::Request,
                data: &$data,
                display: &DisplayHandle,
                init: &mut DataInit<'_, Self>,
            ) {
                if resource.is_invalid(&request) {
                    kill_client(client, display, "invalid request");
                    return;
                }
                let checked = check_limits(state, client, resource, &request);
                <$to as Dispatch<$interface, $data, Self>>::request(
                    state, client, resource, request, data, display, init,
                );
                if let Err(reason) = checked {
                    kill_client(client, display, reason);
                }
            }

            fn destroyed(state: &mut Self, client: ClientId, resource: &$interface, data: &$data) {
                if <$interface as RequestCost>::IS_BUFFER
                    && let Some(client) = resource.client()
                    && let Some(client) = client.get_data::<ClientState>()
                {
                    client.uncount_buffer();
                }
                <$to as Dispatch<$interface, $data, Self>>::destroyed(state, client, resource, data);
            }
        }
    };
}

limited!(WlCompositor, () => CompositorState);
limited!(WlSurface, SurfaceUserData => CompositorState);
limited!(WlRegion, RegionUserData => CompositorState);
limited!(WlShm, () => ShmState);
limited!(WlShmPool, ShmPoolUserData => ShmState);
limited!(WlBuffer, ShmBufferUserData => ShmState);
limited!(WlDataSource, DataSourceUserData => DataDeviceState);

delegate_global_dispatch!(State: [WlCompositor: ()] => CompositorState);
delegate_global_dispatch!(State: [WlSubcompositor: ()] => CompositorState);
delegate_global_dispatch!(State: [WlShm: ()] => ShmState);
delegate_global_dispatch!(State: [WlDataDeviceManager: ()] => DataDeviceState);
delegate_dispatch!(State: [WlCallback: ()] => CompositorState);
delegate_dispatch!(State: [WlSubcompositor: ()] => CompositorState);
delegate_dispatch!(State: [WlSubsurface: SubsurfaceUserData] => CompositorState);
delegate_dispatch!(State: [WlDataDeviceManager: ()] => DataDeviceState);
delegate_dispatch!(State: [WlDataDevice: DataDeviceUserData] => DataDeviceState);

/// How much the requests of an interface allocate.
trait RequestCost: Resource {
    /// Whether objects of this interface count as buffers: buffers and their pools.
    const IS_BUFFER: bool = false;

    /// Whether `request` allocates state that stays until a later request frees it.
    fn retains_state(&self, request: &Self::Request) -> bool;

    /// Whether the library would panic at `request`, or keep it for ever. Such a request must not create an
    /// object.
    fn is_invalid(&self, _request: &Self::Request) -> bool {
        false
    }

    /// Whether `request` creates a buffer or a pool.
    fn creates_buffer(&self, _request: &Self::Request) -> bool {
        false
    }
}

impl RequestCost for WlCompositor {
    fn retains_state(&self, request: &Self::Request) -> bool {
        matches!(
            request,
            wl_compositor::Request::CreateSurface { .. } | wl_compositor::Request::CreateRegion { .. }
        )
    }
}

impl RequestCost for WlRegion {
    fn retains_state(&self, request: &Self::Request) -> bool {
        matches!(request, wl_region::Request::Add { .. } | wl_region::Request::Subtract { .. })
    }
}

impl RequestCost for WlShm {
    fn retains_state(&self, request: &Self::Request) -> bool {
        matches!(request, wl_shm::Request::CreatePool { .. })
    }

    fn creates_buffer(&self, request: &Self::Request) -> bool {
        self.retains_state(request)
    }
}

impl RequestCost for WlBuffer {
    const IS_BUFFER: bool = true;

    fn retains_state(&self, _request: &Self::Request) -> bool {
        false
    }
}

impl RequestCost for WlDataSource {
    fn retains_state(&self, request: &Self::Request) -> bool {
        matches!(request, wl_data_source::Request::Offer { .. })
    }

    fn is_invalid(&self, request: &Self::Request) -> bool {
        let wl_data_source::Request::Offer { mime_type } = request else { return false };
        let offered = with_source_metadata(self, |source| source.mime_types.len()).unwrap_or(0);
        offered >= MAX_MIME_TYPES || mime_type.len() > MAX_MIME_TYPE_BYTES
    }
}

impl RequestCost for WlShmPool {
    const IS_BUFFER: bool = true;

    fn retains_state(&self, request: &Self::Request) -> bool {
        matches!(request, wl_shm_pool::Request::CreateBuffer { .. })
    }

    fn is_invalid(&self, request: &Self::Request) -> bool {
        matches!(request, wl_shm_pool::Request::Resize { size } if *size <= 0)
    }

    fn creates_buffer(&self, request: &Self::Request) -> bool {
        self.retains_state(request)
    }
}

impl RequestCost for WlSurface {
    fn retains_state(&self, request: &Self::Request) -> bool {
        match request {
            wl_surface::Request::Frame { .. } => true,
            wl_surface::Request::Commit => is_sync_subsurface(self),
            wl_surface::Request::Damage { .. } | wl_surface::Request::DamageBuffer { .. } => {
                with_states(self, |states| {
                    let mut guard = states.cached_state.get::<SurfaceAttributes>();
                    let damage = &mut guard.pending().damage;
                    let full = damage.len() > MAX_DAMAGE_RECTS;
                    if full {
                        damage.truncate(1);
                        damage[0] = smithay::wayland::compositor::Damage::Buffer(
                            smithay::utils::Rectangle::from_size((i32::MAX, i32::MAX).into()),
                        );
                    }
                    full
                })
            }
            _ => false,
        }
    }
}

fn check_limits<R: RequestCost>(
    state: &mut State,
    client: &Client,
    resource: &R,
    request: &R::Request,
) -> Result<(), &'static str> {
    state.advance_if_due();
    if !resource.retains_state(request) {
        return Ok(());
    }
    if resource.id().protocol_id() > MAX_OBJECTS {
        return Err("too many objects");
    }
    let Some(client) = client.get_data::<ClientState>() else { return Ok(()) };
    if client.count_retained_request(state.emitter.pacer.slot()) > MAX_RETAINED_REQUESTS_PER_SLOT {
        return Err("too many requests");
    }
    if resource.creates_buffer(request) && client.count_buffer() > MAX_BUFFERS {
        return Err("too many buffers");
    }
    Ok(())
}
