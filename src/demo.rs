//! `pagecast demo`: records the page that comes with Pagecast.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use pagecast_core::spec::{Network, Recording, Rule, Source, SourceUrl};
use pagecast_core::{CastSpec, HostTime};
use pagecast_media::sheet;

use crate::failure::Failure;
use crate::screen::LiveLine;
use crate::{cli, record, screen};

/// Stills on the contact sheet.
const STILLS: u32 = 9;
/// Time for the browser to send a request once it has connected.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The page: name, type, contents.
const FILES: [(&str, &str, &[u8]); 7] = [
    ("/", "text/html; charset=utf-8", include_bytes!("../demo/index.html")),
    ("/style.css", "text/css", include_bytes!("../demo/style.css")),
    ("/main.js", "text/javascript", include_bytes!("../demo/main.js")),
    ("/scenes.js", "text/javascript", include_bytes!("../demo/scenes.js")),
    ("/canvas.js", "text/javascript", include_bytes!("../demo/canvas.js")),
    ("/knot.js", "text/javascript", include_bytes!("../demo/knot.js")),
    ("/music.js", "text/javascript", include_bytes!("../demo/music.js")),
];

pub(crate) fn run(args: &cli::Demo, started: HostTime) -> Result<ExitCode, Failure> {
    let address = serve().context("cannot serve the demo page on 127.0.0.1")?;
    let recording = args.folder.join("demo.mp4");
    let url = SourceUrl::parse(&format!("http://{address}/")).context("the demo page's address")?;
    let spec = CastSpec {
        duration: Some(args.duration),
        recording: Some(Recording { overwrite: true, ..Recording::to_file(recording.clone()) }),
        network: Network {
            allow: vec![Rule::parse(&address.to_string()).context("the demo page's rule")?],
            ..Network::default()
        },
        ..CastSpec::new(Source::new(url))
    };
    screen::say(&format!("recording the demo page for {} s …", args.duration.as_secs_f64()));
    let outcome = record::cast(record::start()?, &spec, started, LiveLine::new(false))?;
    if let Some(report) = &outcome.report {
        screen::say(&screen::summary(&spec.source, report));
    }
    if let Some(failed) = outcome.failure {
        return Err(failed.into());
    }
    let sheet = args.folder.join("demo.png");
    sheet::write(&recording, &sheet, STILLS).context("cannot make the contact sheet")?;
    screen::say(&format!("{}  {STILLS} stills of it, to look at", sheet.display()));
    Ok(ExitCode::SUCCESS)
}

/// Serves [`FILES`] on loopback for as long as the program runs.
fn serve() -> std::io::Result<std::net::SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::Builder::new().name("demo-page".into()).spawn(move || {
        for stream in listener.incoming().flatten() {
            if let Err(error) = answer(stream) {
                tracing::debug!(%error, "request for the demo page");
            }
        }
    })?;
    Ok(address)
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(REQUEST_TIMEOUT))?;
    let mut request = String::new();
    let mut lines = BufReader::new(&stream);
    lines.read_line(&mut request)?;
    let mut header = String::new();
    while lines.read_line(&mut header)? > 2 {
        header.clear();
    }
    let path = request.split(' ').nth(1).unwrap_or_default();
    match FILES.iter().find(|(name, ..)| *name == path) {
        Some((_, kind, body)) => {
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            )?;
            stream.write_all(body)
        }
        None => stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
    }
}
