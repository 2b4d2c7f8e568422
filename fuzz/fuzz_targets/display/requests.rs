//! Requests of the display's protocols, generated from bytes.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use crate::wire::{Event, Wire};

/// Size of a buffer that covers the screen, in bytes.
const SCREEN_BYTES: u64 = 320 * 160 * 4;
/// Numbers that have a meaning in some request, and limits.
const NUMBERS: [i32; 24] = [
    0,
    1,
    2,
    3,
    -1,
    4,
    16,
    64,
    100,
    107,
    160,
    214,
    320,
    640,
    1280,
    4096,
    65_536,
    204_800,
    1_000_000,
    0x7fff_ffff,
    -0x8000_0000,
    -100,
    256,
    5120,
];

/// Requests by interface, in the order of their opcodes, with their arguments: `i` a number, `s` a string,
/// `h` a file, `n=` a new object, `o=` an object, `?=` an object or none.
const INTERFACES: &[(&str, &[&str])] = &[
    ("wl_display", &["n=wl_callback", "n=wl_registry"]),
    ("wl_compositor", &["n=wl_surface", "n=wl_region"]),
    (
        "wl_surface",
        &[
            "",
            "?=wl_buffer i i",
            "i i i i",
            "n=wl_callback",
            "?=wl_region",
            "?=wl_region",
            "",
            "i",
            "i",
            "i i i i",
            "i i",
        ],
    ),
    ("wl_region", &["", "i i i i", "i i i i"]),
    ("wl_shm", &["n=wl_shm_pool h i", ""]),
    ("wl_shm_pool", &["n=wl_buffer i i i i i", "", "i"]),
    ("wl_buffer", &[""]),
    ("wl_subcompositor", &["", "n=wl_subsurface o=wl_surface o=wl_surface"]),
    ("wl_subsurface", &["", "i i", "o=wl_surface", "o=wl_surface", "", ""]),
    ("xdg_wm_base", &["", "n=xdg_positioner", "n=xdg_surface o=wl_surface", "i"]),
    ("xdg_positioner", &["", "i i", "i i i i", "i", "i", "i", "i i", "", "i i", "i"]),
    ("xdg_surface", &["", "n=xdg_toplevel", "n=xdg_popup ?=xdg_surface o=xdg_positioner", "i i i i", "i"]),
    (
        "xdg_toplevel",
        &[
            "",
            "?=xdg_toplevel",
            "s",
            "s",
            "o=wl_seat i i i",
            "o=wl_seat i",
            "o=wl_seat i i",
            "i i",
            "i i",
            "",
            "",
            "?=wl_output",
            "",
            "",
        ],
    ),
    ("xdg_popup", &["", "o=wl_seat i", "o=xdg_positioner i"]),
    ("wp_viewporter", &["", "n=wp_viewport o=wl_surface"]),
    ("wp_viewport", &["", "i i i i", "i i"]),
    ("wp_presentation", &["", "o=wl_surface n=wp_presentation_feedback"]),
    ("wp_fractional_scale_manager_v1", &["", "n=wp_fractional_scale_v1 o=wl_surface"]),
    ("wp_fractional_scale_v1", &[""]),
    ("wl_seat", &["n=wl_pointer", "n=wl_keyboard", "n=wl_touch", ""]),
    ("wl_pointer", &["i ?=wl_surface i i", ""]),
    ("wl_data_device_manager", &["n=wl_data_source", "n=wl_data_device o=wl_seat"]),
    ("wl_data_source", &["s", "", "i"]),
    ("wl_data_device", &["?=wl_data_source o=wl_surface ?=wl_surface i", "?=wl_data_source i", ""]),
    ("zxdg_output_manager_v1", &["", "n=zxdg_output_v1 o=wl_output"]),
    ("zxdg_output_v1", &[""]),
    ("wl_output", &[""]),
];

/// A client and its objects.
pub(crate) struct Client {
    wire: Wire,
    next_id: u32,
    objects: HashMap<&'static str, Vec<u32>>,
}

impl Client {
    /// Connects and binds all announced globals.
    pub(crate) fn connect(socket: &Path, timeout: Duration) -> Self {
        let mut client = Self {
            wire: Wire::connect(socket),
            next_id: 2,
            objects: HashMap::from([("wl_display", vec![1])]),
        };
        let registry = client.new_object("wl_registry");
        client.wire.request(1, 1, &registry.to_ne_bytes());
        let sync = client.new_object("wl_callback");
        client.wire.sync(sync);
        client.wire.flush();
        let mut globals = Vec::new();
        'receive: for _ in 0..timeout.as_millis() / 20 {
            client.wire.read();
            for event in client.wire.events() {
                if event.object == sync {
                    break 'receive;
                }
                globals.push(event);
            }
        }
        for global in globals.iter().filter(|event| event.object == registry && event.opcode == 0) {
            client.bind(registry, global);
        }
        client
    }

    fn bind(&mut self, registry: u32, global: &Event) {
        let word = |at: usize| global.arguments.get(at..at + 4).unwrap_or_default();
        let length = u32::from_ne_bytes(word(4).try_into().unwrap_or_default()) as usize;
        // Name; interface as length, text with a final zero and padding; version.
        let text = &global.arguments[8..8 + length - 1];
        let Some(interface) = INTERFACES.iter().map(|(name, _)| *name).find(|name| name.as_bytes() == text)
        else {
            return;
        };
        let id = self.new_object(interface);
        let arguments = [&global.arguments, &id.to_ne_bytes()[..]].concat();
        self.wire.request(registry, 0, &arguments);
    }

    fn new_object(&mut self, interface: &'static str) -> u32 {
        let id = self.next_id;
        self.next_id += 1;
        self.objects.entry(interface).or_default().push(id);
        id
    }

    /// Sends a request made of some of the bytes. False if the display has closed the connection.
    pub(crate) fn step(&mut self, bytes: &mut &[u8]) -> bool {
        match take(bytes) {
            255 => {
                let count = usize::from(take(bytes) % 32).min(bytes.len());
                let (raw, rest) = bytes.split_at(count);
                self.wire.raw(raw);
                *bytes = rest;
            }
            254 => {
                self.wire.flush();
                self.wire.read();
                self.wire.events().for_each(drop);
            }
            pick => {
                let (interface, requests) = &INTERFACES[usize::from(pick) % INTERFACES.len()];
                let opcode = usize::from(take(bytes)) % requests.len();
                let object = self.object(interface, take(bytes));
                let arguments = self.arguments(requests[opcode], bytes);
                self.wire.request(object, u32::try_from(opcode).unwrap_or(0), &arguments);
            }
        }
        !self.wire.closed
    }

    fn arguments(&mut self, signature: &str, bytes: &mut &[u8]) -> Vec<u8> {
        let mut arguments = Vec::new();
        for argument in signature.split_whitespace() {
            let (kind, interface) = argument.split_once('=').unwrap_or((argument, ""));
            let interface =
                INTERFACES.iter().map(|(name, _)| *name).find(|n| *n == interface).unwrap_or("other");
            let word = match kind {
                "n" => self.new_object(interface),
                "o" => self.object(interface, take(bytes)),
                "?" => match take(bytes) {
                    0 => 0,
                    pick => self.object(interface, pick - 1),
                },
                "s" => {
                    let length = u32::from(take(bytes) % 8) + 1;
                    arguments.extend(length.to_ne_bytes());
                    let text = (1..length).map(|_| take(bytes).max(1)).chain([0]);
                    let padded = text.chain(std::iter::repeat_n(0, (4 - length as usize % 4) % 4));
                    arguments.extend(padded);
                    continue;
                }
                "h" => {
                    self.wire.fd(memory(take(bytes)));
                    continue;
                }
                _ => number(bytes),
            };
            arguments.extend(word.to_ne_bytes());
        }
        arguments
    }

    /// An object of an interface, mostly a recent one; sometimes one of another interface.
    fn object(&self, interface: &str, pick: u8) -> u32 {
        let known = self.objects.get(interface).map(Vec::as_slice).unwrap_or_default();
        match (pick, known.len()) {
            // Not the registry, object 2: `bind` without a name makes the Wayland library panic, which ends
            // the cast.
            (250.., _) | (_, 0) if u32::from(pick) % self.next_id != 2 => u32::from(pick) % self.next_id,
            (_, 0) => 1,
            (_, count) => known[count - 1 - usize::from(pick) % count],
        }
    }

    /// Waits for the last responses and disconnects.
    pub(crate) fn disconnect(mut self, timeout: Duration) {
        let sync = self.wire.sync(self.next_id);
        self.wire.flush();
        self.wire.wait_for(sync, timeout);
    }
}

fn take(bytes: &mut &[u8]) -> u8 {
    let Some((first, rest)) = bytes.split_first() else { return 0 };
    *bytes = rest;
    *first
}

fn number(bytes: &mut &[u8]) -> u32 {
    let value = match take(bytes) {
        small @ 0..=199 => NUMBERS[usize::from(small) % NUMBERS.len()],
        _ => i32::from_ne_bytes([take(bytes), take(bytes), take(bytes), take(bytes)]),
    };
    u32::from_ne_bytes(value.to_ne_bytes())
}

/// A file to share: mostly of the size of the screen, sometimes too short.
fn memory(pick: u8) -> OwnedFd {
    let file = memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("memory for a file");
    let length = match pick {
        0..200 => SCREEN_BYTES,
        200..220 => 0,
        220..240 => 4096,
        _ => 64 * SCREEN_BYTES,
    };
    ftruncate(&file, length).expect("a file takes any length");
    file
}
