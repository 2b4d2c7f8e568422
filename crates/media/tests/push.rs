//! Pushes to servers that accept, refuse, stall or die.

#[path = "synthetic/push_fixture.rs"]
mod push_fixture;
#[path = "synthetic/stream.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod stream;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pagecast_core::connection::State;
use pagecast_core::spec::{MAX_PUSHES, NetworkPolicy, NetworkRule, Push, PushUrl};
use pagecast_media::push::{Config, Error};
use pagecast_testkit::rtmp::{NginxRtmp, free_port};
use pagecast_testkit::timecode::TimecodePosition;
use pagecast_testkit::{Recording, ScratchDir, Signal, command::program, tls, wait_until};

use State::{Connecting, Disconnecting, Failed, Idle, Recovering, Running};
use push_fixture::PushFixture;

/// Short timeouts, for targets that never respond.
fn short_timeouts() -> Config {
    Config {
        connect_timeout: Duration::from_secs(1),
        write_timeout: Duration::from_secs(2),
        ..Config::default()
    }
}

#[test]
fn servers_record_what_was_sent_while_targets_are_added_and_removed() -> Result<()> {
    let nginx = NginxRtmp::start(None)?;
    let fixture = PushFixture::start(Config::default(), 0)?;
    let first = fixture.add_push(&nginx.url("first?sign=1&time=2"))?;
    fixture.wait_for_packets(first, 60)?;
    let second = fixture.add_push(&nginx.url("second"))?;
    fixture.wait_for_packets(second, 60)?;
    ensure!(fixture.pushes.remove(second), "there is such a target");
    fixture.wait_for(second, "end", |status| status.finished)?;
    ensure!(!fixture.pushes.remove(second), "it is over");
    fixture.wait_for_packets(first, 30)?;
    let twice = fixture.add_push(&nginx.url("first?sign=1&time=2"));
    ensure!(twice.is_err_and(|e| matches!(e.downcast_ref(), Some(Error::Duplicate(_)))));
    let results = fixture.finish()?;
    for id in [first, second] {
        ensure!(results.states(id) == [Connecting, Running, Disconnecting, Idle], "{:?}", results.states(id));
    }
    let first_picture = results.wait_for_recording(&nginx.recordings("first")?[0])?;
    let of_second = results.compare_recording(&nginx.recordings("second")?[0])?;
    ensure!(
        of_second.0 > first_picture && of_second.1 < results.picture_count() - 1,
        "{of_second:?} within {first_picture} to {}",
        results.picture_count()
    );
    ensure!(
        results.statuses.iter().all(|s| s.lost == 0 && s.reconnects == 0 && s.error.is_none()),
        "{:?}",
        results.statuses
    );
    Ok(())
}

#[test]
fn of_ten_pushes_three_die_and_come_back_and_the_others_miss_nothing() -> Result<()> {
    let (sound, mut mortal) = (NginxRtmp::start(None)?, NginxRtmp::start(None)?);
    let fixture = PushFixture::start(Config::default(), 0)?;
    let urls =
        (0..10).map(|i| if i < 7 { sound.url(&format!("s{i}")) } else { mortal.url(&format!("m{i}")) });
    let ids = urls.map(|url| fixture.add_push(&url)).collect::<Result<Vec<_>>>()?;
    let more =
        fixture.pushes.add(Push { url: PushUrl::parse(&sound.url("eleventh"))?, reconnect_timeout: None });
    ensure!(matches!(more, Err(Error::TooMany)) && ids.len() == MAX_PUSHES);
    for id in &ids {
        fixture.wait_for_packets(*id, 30)?;
    }
    mortal.kill();
    for id in &ids[7..] {
        let status = fixture.wait_for_state(*id, Recovering)?;
        ensure!(status.error.is_some_and(|why| why.contains("closed") || why.contains("refused")));
    }
    mortal.restart()?;
    for id in &ids[7..] {
        fixture
            .wait_for(*id, "second connection", |status| status.reconnects == 1 && status.state == Running)?;
        fixture.wait_for_packets(*id, 30)?;
    }
    let results = fixture.finish()?;
    for (i, id) in ids.iter().enumerate() {
        let states = results.states(*id);
        if i < 7 {
            ensure!(states == [Connecting, Running, Disconnecting, Idle], "{states:?}");
            results.wait_for_recording(&sound.recordings(&format!("s{i}"))?[0])?;
            ensure!(results.statuses[i].lost == 0, "{:?}", results.statuses[i]);
        } else {
            ensure!(states.starts_with(&[Connecting, Running, Recovering]), "{states:?}");
            ensure!(states.ends_with(&[Recovering, Running, Disconnecting, Idle]), "{states:?}");
            let files = mortal.recordings(&format!("m{i}"))?;
            let (before, after) =
                (results.compare_recording(&files[0])?, results.wait_for_recording(&files[1])?);
            ensure!(before.1 < after, "{before:?} and from {after} on");
            let status = &results.statuses[i];
            ensure!(status.lost > 0 && status.error.is_none() && status.interruption.is_some(), "{status:?}");
        }
    }
    Ok(())
}

#[test]
fn a_server_that_stops_reading_is_left_and_found_again() -> Result<()> {
    let nginx = NginxRtmp::start(None)?;
    // 6 MB a second: more than the system buffers.
    let fixture = PushFixture::start(short_timeouts(), 200_000)?;
    let id = fixture.add_push(&nginx.url("slow"))?;
    fixture.wait_for_packets(id, 20)?;
    nginx.signal(Signal::STOP)?;
    fixture.wait_for(id, "loss", |status| {
        assert!(status.queued_bytes <= 16 * 1024 * 1024, "{status:?}");
        status.state == Recovering
    })?;
    nginx.signal(Signal::CONT)?;
    fixture.wait_for_state(id, Running)?;
    fixture.wait_for_packets(id, 20)?;
    let results = fixture.finish()?;
    let reasons: Vec<_> = results.events.iter().filter_map(|entry| entry.event.error.as_deref()).collect();
    ensure!(reasons.iter().any(|why| why.contains("stopped taking")), "{reasons:?}");
    let files = nginx.recordings("slow")?;
    results.compare_recording(&files[files.len() - 1])?;
    Ok(())
}

/// Starts a server that handles connections one after the other until the process ends.
fn start_tcp_server(handle: impl Fn(TcpStream) -> std::io::Result<()> + Send + 'static) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            // Most of these connections fail on purpose.
            let _broken = handle(connection);
        }
    });
    Ok(format!("rtmp://127.0.0.1:{port}/live/hunter2"))
}

#[test]
fn each_failure_is_described_without_the_key() -> Result<()> {
    let nginx = NginxRtmp::start(None)?;
    let kept = Mutex::new(Vec::new());
    let silent = start_tcp_server(move |connection| {
        kept.lock().map(|mut kept| kept.push(connection)).map_err(|_| std::io::ErrorKind::Other.into())
    })?;
    let garbage = start_tcp_server(|mut connection| {
        let _request = connection.read(&mut [0; 4096])?;
        connection.write_all(&[0x55; 64 * 1024])
    })?;
    let hangs_up = start_tcp_server(|connection| connection.shutdown(std::net::Shutdown::Both))?;
    let resets = start_tcp_server(|mut connection| connection.read(&mut [0; 1]).map(drop))?;
    let cases = [
        (format!("rtmp://127.0.0.1:{}/live/hunter2", free_port()?), "connection refused"),
        ("rtmp://pagecast.invalid/live/hunter2".into(), "host is unknown"),
        (silent, "no answer in time"),
        (garbage, ""),
        (hangs_up, "application and key"),
        (resets, "application and key"),
        (format!("rtmp://127.0.0.1:{}/closed/hunter2", nginx.port()), "application and key"),
        (format!("srt://127.0.0.1:{}?streamid=hunter2", free_port()?), ""),
    ];
    let fixture = PushFixture::start(short_timeouts(), 0)?;
    let ids = cases.iter().map(|(url, _)| fixture.add_push(url)).collect::<Result<Vec<_>>>()?;
    for (id, (url, words)) in ids.iter().zip(&cases) {
        let error =
            fixture.wait_for(*id, "error", |status| status.error.is_some())?.error.unwrap_or_default();
        eprintln!("{url}: {error}");
        ensure!(error.contains(words) && !error.contains("hunter2"), "{url}: {error}");
    }
    let began = Instant::now();
    let results = fixture.finish()?;
    // Each push has three seconds, at the same time; only the name server may take longer.
    ensure!(began.elapsed() < Duration::from_secs(30), "it took {:?} to end", began.elapsed());
    for id in ids {
        let states = results.states(id);
        ensure!(
            states.ends_with(&[Connecting, Disconnecting, Idle]) && !states.contains(&Running),
            "{states:?}"
        );
    }
    ensure!(!format!("{:?} {:?}", results.statuses, results.events).contains("hunter2"));
    Ok(())
}

#[test]
fn a_target_fails_after_its_reconnect_timeout() -> Result<()> {
    let mut nginx = NginxRtmp::start(None)?;
    let fixture = PushFixture::start(Config::default(), 0)?;
    let url = PushUrl::parse(&nginx.url("gone"))?;
    let id = fixture.pushes.add(Push { url, reconnect_timeout: Some(Duration::from_secs(8)) })?;
    fixture.wait_for_packets(id, 10)?;
    nginx.kill();
    fixture.wait_for(id, "end", |status| status.finished)?;
    let results = fixture.finish()?;
    ensure!(
        results.states(id) == [Connecting, Running, Recovering, Failed, Idle],
        "{:?}",
        results.states(id)
    );
    ensure!(results.statuses[0].error.is_some());
    Ok(())
}

#[test]
fn rtmps_needs_a_trusted_certificate() -> Result<()> {
    let scratch = ScratchDir::new()?;
    let (certificate, key) = tls::self_signed_certificate(scratch.path())?;
    let nginx = NginxRtmp::start(Some((certificate.clone(), key)))?;
    let fixture = PushFixture::start(Config { ca_file: Some(certificate), ..Config::default() }, 0)?;
    let good = fixture.add_push(&nginx.tls_url("localhost", "good"))?;
    let other_name = fixture.add_push(&nginx.tls_url("127.0.0.1", "hunter2"))?;
    fixture.wait_for_packets(good, 60)?;
    fixture.wait_for(other_name, "error", |status| {
        status.error.as_ref().is_some_and(|why| why.contains("TLS"))
    })?;
    let results = fixture.finish()?;
    ensure!(!results.states(other_name).contains(&Running), "it accepted the certificate of another host");
    results.compare_recording(&nginx.recordings("good")?[0])?;
    ensure!(nginx.recordings("hunter2")?.is_empty());

    let fixture = PushFixture::start(Config::default(), 0)?;
    let unknown = fixture.add_push(&nginx.tls_url("localhost", "hunter2"))?;
    let why = fixture.wait_for(unknown, "error", |status| status.error.is_some())?.error.unwrap_or_default();
    eprintln!("{why}");
    ensure!(why.contains("TLS"), "{why}");
    ensure!(!fixture.finish()?.states(unknown).contains(&Running), "it accepted an untrusted certificate");
    Ok(())
}

/// Resolves `cdn.example` to this machine: `::1`, where nothing listens, and `127.0.0.1`.
fn resolve_to_loopback(host: &str) -> std::io::Result<Vec<std::net::IpAddr>> {
    let addresses = ["::1", "127.0.0.1"].map(|address| address.parse());
    if host == "cdn.example" { Ok(addresses.into_iter().flatten().collect()) } else { Ok(Vec::new()) }
}

fn config_allowing(allow: &[&str]) -> Result<Config> {
    let allow = allow.iter().map(|rule| NetworkRule::parse(rule)).collect::<Result<_, _>>()?;
    Ok(Config {
        network: Some(NetworkPolicy { allow, ..NetworkPolicy::default() }),
        resolver: resolve_to_loopback,
        ..short_timeouts()
    })
}

#[test]
fn a_name_that_leads_to_this_machine_is_refused_unless_a_rule_allows_it() -> Result<()> {
    let nginx = NginxRtmp::start(None)?;
    let url = nginx.url("hunter2").replace("127.0.0.1", "cdn.example");
    let fixture = PushFixture::start(config_allowing(&["127.0.0.1:9"])?, 0)?;
    for url in [url.clone(), url.replace("rtmp:", "rtmps:"), "srt://cdn.example:8".to_owned()] {
        let id = fixture.add_push(&url)?;
        let why = fixture.wait_for(id, "error", |status| status.error.is_some())?.error.unwrap_or_default();
        ensure!(
            why == "the host's address is not public, and no rule of the network allows it",
            "{url}: {why}"
        );
    }
    let other = fixture.add_push("rtmp://other.example/live/hunter2")?;
    let why = fixture.wait_for(other, "error", |status| status.error.is_some())?.error.unwrap_or_default();
    ensure!(why.contains("unknown"), "{why}");
    ensure!(
        fixture.finish()?.events.iter().all(|entry| entry.event.state != Running),
        "one was connected to"
    );
    ensure!(nginx.recordings("hunter2")?.is_empty());

    // The system cannot resolve the name, so it is resolved once; nothing listens at its first address.
    let fixture = PushFixture::start(config_allowing(&["127.0.0.1", "::1"])?, 0)?;
    let id = fixture.add_push(&url)?;
    fixture.wait_for_packets(id, 30)?;
    ensure!(fixture.finish()?.statuses[0].error.is_none());
    ensure!(!nginx.recordings("hunter2")?.is_empty());
    Ok(())
}

#[test]
fn servers_receive_the_name_that_was_written_not_the_address() -> Result<()> {
    let (sender, connects) = std::sync::mpsc::sync_channel(1);
    let url = start_tcp_server(move |mut connection| {
        // The RTMP handshake: the client's bytes are sent back (sections 5.2.2 to 5.2.4).
        let mut hello = vec![0; 1537];
        connection.read_exact(&mut hello)?;
        connection.write_all(&[&hello[..], &hello[1..]].concat())?;
        connection.read_exact(&mut hello[1..])?;
        let mut connect = Vec::new();
        // Up to the end of the object, without the chunk headers after each 128 bytes.
        while !connect.ends_with(&[0, 0, 9]) {
            let mut byte = [0];
            connection.read_exact(&mut byte)?;
            connect.extend(byte.iter().filter(|byte| **byte != 0xc3));
        }
        let _late = sender.try_send(String::from_utf8_lossy(&connect).into_owned());
        Ok(())
    })?;
    let fixture = PushFixture::start(config_allowing(&["*"])?, 0)?;
    let url = url.replace("127.0.0.1", "cdn.example");
    fixture.add_push(&url)?;
    let connect = connects.recv_timeout(Duration::from_secs(60))?;
    let wanted = url.rsplit_once('/').map(|(server, _)| server).unwrap_or_default();
    ensure!(connect.contains("tcUrl") && connect.contains(&format!("{wanted}\0")), "{connect:?}");
    drop(fixture.finish()?);
    Ok(())
}

/// `ffmpeg` as an SRT listener that writes one stream to a file.
struct SrtServer(Child);

impl SrtServer {
    fn start(port: u16, file: &Path) -> Result<Self> {
        let mut ffmpeg = program("ffmpeg");
        ffmpeg.args(["-v", "error", "-nostdin", "-y", "-copyts", "-i"]);
        ffmpeg.arg(format!("srt://127.0.0.1:{port}?mode=listener"));
        ffmpeg.args(["-c", "copy", "-f", "matroska"]).arg(file).stdin(Stdio::null());
        Ok(Self(ffmpeg.spawn()?))
    }

    /// Waits until the stream has ended.
    fn finish(mut self) -> Result<()> {
        wait_until("the stream ends", Duration::from_secs(60), || {
            self.0.try_wait()?.context("it is received")?;
            Ok(())
        })
    }
}

impl Drop for SrtServer {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[test]
fn srt_carries_every_picture_to_the_last() -> Result<()> {
    let scratch = ScratchDir::new()?;
    let (port, file) = (free_port()?, scratch.join("srt.mkv"));
    let server = SrtServer::start(port, &file)?;
    let fixture = PushFixture::start(Config::default(), 0)?;
    let id = fixture.add_push(&format!("srt://127.0.0.1:{port}?mode=caller&streamid=hunter2"))?;
    fixture.wait_for_packets(id, 200)?;
    let results = fixture.finish()?;
    server.finish()?;
    let file = Recording::open(&file)?;
    let seen: Vec<_> = file
        .timecodes(TimecodePosition::PAGE)?
        .iter()
        .filter_map(|seen| Some(seen.timecode?.counter))
        .collect();
    let (first, last) = (seen[0], seen[seen.len() - 1]);
    ensure!(seen.iter().copied().eq(first..=last), "{seen:?}");
    ensure!(
        last as usize == results.picture_count() - 1,
        "{last} is the last of {}",
        results.picture_count()
    );
    ensure!(file.audio.is_some() && results.statuses[0].lost == 0, "{:?}", results.statuses);
    Ok(())
}

#[test]
fn an_srt_listener_that_dies_is_found_again() -> Result<()> {
    let scratch = ScratchDir::new()?;
    let (port, file) = (free_port()?, scratch.join("second.mkv"));
    let server = SrtServer::start(port, &scratch.join("first.mkv"))?;
    let fixture = PushFixture::start(Config::default(), 0)?;
    let id = fixture.add_push(&format!("srt://127.0.0.1:{port}"))?;
    let before = fixture.wait_for_packets(id, 60)?;
    drop(server);
    fixture.wait_for_state(id, Recovering)?;
    let server = SrtServer::start(port, &file)?;
    fixture.wait_for_packets(id, 100)?;
    let results = fixture.finish()?;
    server.finish()?;
    let file = Recording::open(&file)?;
    let seen: Vec<_> = file
        .timecodes(TimecodePosition::PAGE)?
        .iter()
        .filter_map(|seen| Some(seen.timecode?.counter))
        .collect();
    let (first, last) = (seen[0], seen[seen.len() - 1]);
    ensure!(
        seen.iter().copied().eq(first..=last) && last as usize == results.picture_count() - 1,
        "{seen:?}"
    );
    // With `-copyts` these are the time stamps of the cast plus a constant.
    let shown_s = file.video.seconds(file.video_packets[0].pts);
    let ahead_s = shown_s - f64::from(first) / f64::from(push_fixture::FPS);
    ensure!((0.0..1.0).contains(&ahead_s), "picture {first} is at {shown_s} s");
    ensure!(
        results.statuses[0].reconnects == 1 && results.statuses[0].lost > 0,
        "{before:?}, then {:?}",
        results.statuses
    );
    Ok(())
}

#[test]
fn a_hanging_target_ends_at_once_when_removed() -> Result<()> {
    let kept = Mutex::new(Vec::new());
    let silent = start_tcp_server(move |connection| {
        kept.lock().map(|mut kept| kept.push(connection)).map_err(|_| std::io::ErrorKind::Other.into())
    })?;
    let connect = Duration::from_secs(600);
    let fixture = PushFixture::start(Config { connect_timeout: connect, ..Config::default() }, 0)?;
    let id = fixture.add_push(&silent)?;
    fixture.wait_for_state(id, Connecting)?;
    ensure!(fixture.pushes.remove(id));
    fixture.wait_for(id, "end", |status| status.finished)?;
    let results = fixture.finish()?;
    ensure!(results.states(id) == [Connecting, Disconnecting, Idle], "{:?}", results.states(id));
    Ok(())
}
