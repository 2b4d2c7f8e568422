//! `pagecast cast`, and the room that it opens.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use pagecast_core::error_text::io_reason;
use pagecast_core::spec::{RoomService, RoomUrl, Secret};
use pagecast_core::{HostTime, SpecError};
use pagecast_room::embedded::{
    self, Server,
    token::{self, Claims},
};
use pagecast_worker::cast::{self, Assignment, CastPaths};

use crate::cli;
use crate::console::{self, StatusLine};
use crate::error::CommandError;
use crate::record;

/// Environment variable with the secret that signs the tokens of a room reachable from other machines.
const ROOM_SECRET_ENV: &str = "PAGECAST_ROOM_SECRET";
/// Lifetime of a token, which serves one cast: as long as the longest cast.
const TOKEN_LIFETIME: Duration = Duration::from_secs(86_400);

pub(crate) fn run(args: &cli::CastArgs, started: HostTime) -> Result<ExitCode, CommandError> {
    let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let mut spec = args.options.spec().map_err(cast::Error::from)?;
    let own = if args.room.is_embedded() {
        Some(EmbeddedRoom::start(&args.room, environment(ROOM_SECRET_ENV))?)
    } else {
        None
    };
    let service = own.as_ref().map(|own| own.room_service()).transpose().map_err(cast::Error::from)?;
    spec.room = Some(args.room.spec(&args.options, service, &environment).map_err(cast::Error::from)?);
    let mut paths = CastPaths::default();
    if args.output.is_given() {
        let recording = args.output.recording(&args.options.url, record::unix_s());
        let recording = recording.map_err(SpecError::from).map_err(cast::Error::from)?;
        (spec.recording, paths) = (Some(recording.0), recording.1);
    }
    let assignment = Assignment::new(spec, paths);
    // Invalid values are reported before the viewer URL is printed.
    assignment.validate().map_err(cast::Error::from)?;
    let Some((process, started)) = record::start_or_standby(&args.options, &assignment, started)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let mut line = StatusLine::new(args.options.quiet || args.options.json);
    if let Some(own) = &own {
        if !args.options.quiet {
            console::print_message(&format!("viewer URL: {}", own.watch_url));
        }
        let (server, room) = (Arc::clone(&own.server), args.room.name().to_owned());
        line.set_viewer_counter(Box::new(move || server.stats(&room).map(|stats| stats.viewers.len())));
    }
    let outcome = record::run_cast(process, &assignment, started, line)?;
    record::report_outcome(&args.options, &assignment.spec, outcome)
}

/// Explains reason the room cannot listen, with the option that helps.
fn listen_failure(error: embedded::Error) -> CommandError {
    let embedded::Error::Listen { address, what, source } = error else {
        return anyhow::Error::from(error).context("cannot open a room").into();
    };
    let option = if what == "media" { "--listen-media" } else { "--listen" };
    let port = address.port();
    let advice = match source.kind() {
        ErrorKind::AddrInUse => {
            format!(
                "port {port} is in use by another program: choose another one with {option} {}",
                port_hint(address)
            )
        }
        ErrorKind::AddrNotAvailable => {
            format!("this machine has no address {}: choose one that it has with {option}", address.ip())
        }
        ErrorKind::PermissionDenied => {
            format!("this user may not listen on port {port}: choose a port from 1024 to 65535 with {option}")
        }
        _ => format!("{}; choose another address with {option}", io_reason(&source)),
    };
    CommandError::output_failed(anyhow!("cannot open the room at {address}: {advice}"))
}

/// Returns the next port of the address as an example to type, or port 0, with which the system chooses a
/// free one.
fn port_hint(address: SocketAddr) -> String {
    match address.port().checked_add(1) {
        Some(port) => format!("{}, or any free one with port 0", SocketAddr::new(address.ip(), port)),
        None => format!("{}, which takes any free port", SocketAddr::new(address.ip(), 0)),
    }
}

/// The room that Pagecast opens itself.
struct EmbeddedRoom {
    server: Arc<Server>,
    /// URL of the viewer page.
    watch_url: String,
    publish_url_template: String,
    token: Option<Secret>,
}

impl EmbeddedRoom {
    fn start(room: &cli::room::RoomOptions, secret: Option<String>) -> Result<Self, CommandError> {
        let invalid = |reason| {
            CommandError::from(cast::Error::from(SpecError::Room { what: "this address", why: reason }))
        };
        let access = match secret {
            Some(secret) => embedded::Access::Jwt(Secret::new(secret)),
            None if room.listen.ip().is_loopback() => embedded::Access::Open,
            None => return Err(invalid("a room for other machines needs tokens: set PAGECAST_ROOM_SECRET")),
        };
        let config = embedded::Config {
            http: room.listen,
            media: room.listen_media.unwrap_or_else(|| (room.listen.ip(), 0).into()),
            advertised_addresses: room.public_address.clone(),
            access: access.clone(),
            ..embedded::Config::default()
        };
        let server = Server::start(config).map_err(listen_failure)?;
        let address = server.http_addr();
        let (name, user) = (room.name(), room.user());
        server.expect_publisher(name, user);
        let mint = |publish: bool| match &access {
            embedded::Access::Open => Ok(None),
            embedded::Access::Jwt(secret) => {
                let claims = Claims::new(name, TOKEN_LIFETIME);
                let claims = if publish { claims.allow_publish(user) } else { claims.allow_view() };
                token::mint(secret, &claims).map(Some)
            }
        };
        let view = mint(false).context("cannot make a token")?;
        let view = view.map(|token| format!("?token={token}")).unwrap_or_default();
        Ok(Self {
            watch_url: format!("http://{address}/rooms/{name}{view}"),
            publish_url_template: format!("http://{address}/rooms/{{room}}/whip?user={{user}}"),
            token: mint(true).context("cannot make a token")?.map(Secret::new),
            server: Arc::new(server),
        })
    }

    fn room_service(&self) -> Result<RoomService, SpecError> {
        Ok(RoomService::Whip { url: RoomUrl::parse(&self.publish_url_template)?, token: self.token.clone() })
    }
}
