//! What servers get of a stream, and what becomes of it when they do not take it.

#[path = "synthetic/rig.rs"]
mod rig;
#[path = "synthetic/stream.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod stream;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use pagecast_core::connection::State;
use pagecast_core::spec::{MAX_PUSHES, NetworkPolicy, NetworkRule, Push, PushUrl};
use pagecast_media::push::{Config, Error};
use pagecast_testkit::rtmp::{NginxRtmp, free_port};
use pagecast_testkit::timecode::TimecodePosition;
use pagecast_testkit::{Recording, ScratchDir, Signal, command::program, tls};

use State::{Connecting, Disconnecting, Failed, Idle, Recovering, Running};
use rig::PushFixture;

/// For targets that never answer.
fn short_timeouts() -> Config {
    Config {
        connect_timeout: Duration::from_secs(1),
        write_timeout: Duration::from_secs(2),
        ..Config::default()
    }
}

#[test]
fn what_arrives_is_what_was_sent_and_targets_come_and_go() -> Result<()> {
    let nginx = NginxRtmp::start(None)?;
    let rig = PushFixture::start(Config::default(), 0)?;
    let first = rig.add_push(&nginx.url("first?sign=1&time=2"))?;
    rig.wait_for_packets(first, 60)?;
    let second = rig.add_push(&nginx.url("second"))?;
    rig.wait_for_packets(second, 60)?;
    ensure!(rig.pushes.remove(second), "there is such a target");
    rig.wait_for(second, "end", |status| status.finished)?;
    ensure!(!rig.pushes.remove(second), "it is over");
    rig.wait_for_packets(first, 30)?;
    let twice = rig.add_push(&nginx.url("first?sign=1&time=2"));
    ensure!(twice.is_err_and(|e| matches!(e.downcast_ref(), Some(Error::Duplicate(_)))));
    let came = rig.finish()?;
    for id in [first, second] {
        ensure!(came.states(id) == [Connecting, Running, Disconnecting, Idle], "{:?}", came.states(id));
    }
    let of_first = came.compare_recording(&nginx.recordings("first")?[0])?;
    ensure!(of_first.1 == came.picture_count() - 1, "{of_first:?} of {}", came.picture_count());
    let of_second = came.compare_recording(&nginx.recordings("second")?[0])?;
    ensure!(of_second.0 > of_first.0 && of_second.1 < of_first.1, "{of_second:?} within {of_first:?}");
    ensure!(
        came.statuses.iter().all(|s| s.lost == 0 && s.reconnects == 0 && s.error.is_none()),
        "{:?}",
        came.statuses
    );
    Ok(())
}

#[test]
fn of_ten_pushes_three_die_and_come_back_and_the_others_miss_nothing() -> Result<()> {
    let (sound, mut mortal) = (NginxRtmp::start(None)?, NginxRtmp::start(None)?);
    let rig = PushFixture::start(Config::default(), 0)?;
    let urls =
        (0..10).map(|i| if i < 7 { sound.url(&format!("s{i}")) } else { mortal.url(&format!("m{i}")) });
    let ids = urls.map(|url| rig.add_push(&url)).collect::<Result<Vec<_>>>()?;
    let more = rig.pushes.add(Push { url: PushUrl::parse(&sound.url("eleventh"))?, reconnect_timeout: None });
    ensure!(matches!(more, Err(Error::TooMany)) && ids.len() == MAX_PUSHES);
    for id in &ids {
        rig.wait_for_packets(*id, 30)?;
    }
    mortal.kill();
    for id in &ids[7..] {
        let status = rig.wait_for_state(*id, Recovering)?;
        ensure!(status.error.is_some_and(|why| why.contains("closed") || why.contains("refused")));
    }
    mortal.restart()?;
    for id in &ids[7..] {
        rig.wait_for(*id, "second connection", |status| status.reconnects == 1 && status.state == Running)?;
        rig.wait_for_packets(*id, 30)?;
    }
    let came = rig.finish()?;
    for (i, id) in ids.iter().enumerate() {
        let told = came.states(*id);
        if i < 7 {
            ensure!(told == [Connecting, Running, Disconnecting, Idle], "{told:?}");
            let range = came.compare_recording(&sound.recordings(&format!("s{i}"))?[0])?;
            ensure!(range.1 == came.picture_count() - 1, "{range:?} of {}", came.picture_count());
            ensure!(came.statuses[i].lost == 0, "{:?}", came.statuses[i]);
        } else {
            ensure!(told.starts_with(&[Connecting, Running, Recovering]), "{told:?}");
            ensure!(told.ends_with(&[Recovering, Running, Disconnecting, Idle]), "{told:?}");
            let files = mortal.recordings(&format!("m{i}"))?;
            let [before, after] = [came.compare_recording(&files[0])?, came.compare_recording(&files[1])?];
            ensure!(before.1 < after.0 && after.1 == came.picture_count() - 1, "{before:?} and {after:?}");
            let status = &came.statuses[i];
            ensure!(status.lost > 0 && status.error.is_none() && status.interruption.is_some(), "{status:?}");
        }
    }
    Ok(())
}

#[test]
fn a_server_that_stops_reading_is_left_and_found_again() -> Result<()> {
    let nginx = NginxRtmp::start(None)?;
    // 6 MB a second: more than the system buffers.
    let rig = PushFixture::start(short_timeouts(), 200_000)?;
    let id = rig.add_push(&nginx.url("slow"))?;
    rig.wait_for_packets(id, 20)?;
    nginx.signal(Signal::STOP)?;
    rig.wait_for(id, "loss", |status| {
        assert!(status.queued_bytes <= 16 * 1024 * 1024, "{status:?}");
        status.state == Recovering
    })?;
    nginx.signal(Signal::CONT)?;
    rig.wait_for_state(id, Running)?;
    rig.wait_for_packets(id, 20)?;
    let came = rig.finish()?;
    let reasons: Vec<_> = came.events.iter().filter_map(|news| news.event.error.as_deref()).collect();
    ensure!(reasons.iter().any(|why| why.contains("stopped taking")), "{reasons:?}");
    let files = nginx.recordings("slow")?;
    came.compare_recording(&files[files.len() - 1])?;
    Ok(())
}

/// A server of which each connection is handled so, one after the other, as long as the program runs.
fn start_tcp_server(handle: impl Fn(TcpStream) -> std::io::Result<()> + Send + 'static) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            // A connection that fails is the point of it.
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
        let _asked = connection.read(&mut [0; 4096])?;
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
    let rig = PushFixture::start(short_timeouts(), 0)?;
    let ids = cases.iter().map(|(url, _)| rig.add_push(url)).collect::<Result<Vec<_>>>()?;
    for (id, (url, words)) in ids.iter().zip(&cases) {
        let error = rig.wait_for(*id, "error", |status| status.error.is_some())?.error.unwrap_or_default();
        eprintln!("{url}: {error}");
        ensure!(error.contains(words) && !error.contains("hunter2"), "{url}: {error}");
    }
    let began = Instant::now();
    let came = rig.finish()?;
    // Each has three seconds, all at once; the name server may be as slow as it likes.
    ensure!(began.elapsed() < Duration::from_secs(30), "it took {:?} to end", began.elapsed());
    for id in ids {
        let told = came.states(id);
        ensure!(told.ends_with(&[Connecting, Disconnecting, Idle]) && !told.contains(&Running), "{told:?}");
    }
    ensure!(!format!("{:?} {:?}", came.statuses, came.events).contains("hunter2"));
    Ok(())
}

#[test]
fn patience_ends_for_good() -> Result<()> {
    let mut nginx = NginxRtmp::start(None)?;
    let rig = PushFixture::start(Config::default(), 0)?;
    let url = PushUrl::parse(&nginx.url("gone"))?;
    let id = rig.pushes.add(Push { url, reconnect_timeout: Some(Duration::from_secs(8)) })?;
    rig.wait_for_packets(id, 10)?;
    nginx.kill();
    rig.wait_for(id, "end", |status| status.finished)?;
    let came = rig.finish()?;
    ensure!(came.states(id) == [Connecting, Running, Recovering, Failed, Idle], "{:?}", came.states(id));
    ensure!(came.statuses[0].error.is_some());
    Ok(())
}

#[test]
fn rtmps_needs_a_certificate_that_somebody_vouches_for() -> Result<()> {
    let scratch = ScratchDir::new()?;
    let (certificate, key) = tls::self_signed_certificate(scratch.path())?;
    let nginx = NginxRtmp::start(Some((certificate.clone(), key)))?;
    let rig = PushFixture::start(Config { ca_file: Some(certificate), ..Config::default() }, 0)?;
    let good = rig.add_push(&nginx.tls_url("localhost", "good"))?;
    let other_name = rig.add_push(&nginx.tls_url("127.0.0.1", "hunter2"))?;
    rig.wait_for_packets(good, 60)?;
    rig.wait_for(other_name, "error", |status| status.error.as_ref().is_some_and(|why| why.contains("TLS")))?;
    let came = rig.finish()?;
    ensure!(!came.states(other_name).contains(&Running), "it took a certificate of another");
    came.compare_recording(&nginx.recordings("good")?[0])?;
    ensure!(nginx.recordings("hunter2")?.is_empty());

    let rig = PushFixture::start(Config::default(), 0)?;
    let unknown = rig.add_push(&nginx.tls_url("localhost", "hunter2"))?;
    let why = rig.wait_for(unknown, "error", |status| status.error.is_some())?.error.unwrap_or_default();
    eprintln!("{why}");
    ensure!(why.contains("TLS"), "{why}");
    ensure!(
        !rig.finish()?.states(unknown).contains(&Running),
        "it took a certificate that nobody vouches for"
    );
    Ok(())
}

/// A name that leads to this machine, and to where nobody answers; nobody else knows it.
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
    let rig = PushFixture::start(config_allowing(&["127.0.0.1:9"])?, 0)?;
    for url in [url.clone(), url.replace("rtmp:", "rtmps:"), "srt://cdn.example:8".to_owned()] {
        let id = rig.add_push(&url)?;
        let why = rig.wait_for(id, "error", |status| status.error.is_some())?.error.unwrap_or_default();
        ensure!(
            why == "the host's address is not public, and no rule of the network allows it",
            "{url}: {why}"
        );
    }
    let other = rig.add_push("rtmp://other.example/live/hunter2")?;
    let why = rig.wait_for(other, "error", |status| status.error.is_some())?.error.unwrap_or_default();
    ensure!(why.contains("unknown"), "{why}");
    ensure!(rig.finish()?.events.iter().all(|news| news.event.state != Running), "one was connected to");
    ensure!(nginx.recordings("hunter2")?.is_empty());

    // The system knows no such name, so it is not looked up again; at the first address nobody answers.
    let rig = PushFixture::start(config_allowing(&["127.0.0.1", "::1"])?, 0)?;
    let id = rig.add_push(&url)?;
    rig.wait_for_packets(id, 30)?;
    ensure!(rig.finish()?.statuses[0].error.is_none());
    ensure!(!nginx.recordings("hunter2")?.is_empty());
    Ok(())
}

#[test]
fn servers_receive_the_name_that_was_written_not_the_address() -> Result<()> {
    let (sender, heard) = std::sync::mpsc::sync_channel(1);
    let url = start_tcp_server(move |mut connection| {
        // The handshake of RTMP: what comes is sent back (its sections 5.2.2 to 5.2.4).
        let mut hello = vec![0; 1537];
        connection.read_exact(&mut hello)?;
        connection.write_all(&[&hello[..], &hello[1..]].concat())?;
        connection.read_exact(&mut hello[1..])?;
        let mut connect = Vec::new();
        // To the end of an object; between parts of 128 bytes there is one that is none of it.
        while !connect.ends_with(&[0, 0, 9]) {
            let mut byte = [0];
            connection.read_exact(&mut byte)?;
            connect.extend(byte.iter().filter(|byte| **byte != 0xc3));
        }
        let _late = sender.try_send(String::from_utf8_lossy(&connect).into_owned());
        Ok(())
    })?;
    let rig = PushFixture::start(config_allowing(&["*"])?, 0)?;
    let url = url.replace("127.0.0.1", "cdn.example");
    rig.add_push(&url)?;
    let heard = heard.recv_timeout(Duration::from_secs(60))?;
    let wanted = url.rsplit_once('/').map(|(server, _)| server).unwrap_or_default();
    ensure!(heard.contains("tcUrl") && heard.contains(&format!("{wanted}\0")), "{heard:?}");
    drop(rig.finish()?);
    Ok(())
}

/// `ffmpeg` waiting for one SRT stream, which it writes to a file as it comes.
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
        let began = Instant::now();
        while self.0.try_wait()?.is_none() {
            ensure!(began.elapsed() < Duration::from_secs(60), "the stream does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
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
    let rig = PushFixture::start(Config::default(), 0)?;
    let id = rig.add_push(&format!("srt://127.0.0.1:{port}?mode=caller&streamid=hunter2"))?;
    rig.wait_for_packets(id, 200)?;
    let came = rig.finish()?;
    server.finish()?;
    let file = Recording::open(&file)?;
    let seen: Vec<_> = file
        .timecodes(TimecodePosition::PAGE)?
        .iter()
        .filter_map(|seen| Some(seen.timecode?.counter))
        .collect();
    let (first, last) = (seen[0], seen[seen.len() - 1]);
    ensure!(seen.iter().copied().eq(first..=last), "{seen:?}");
    ensure!(last as usize == came.picture_count() - 1, "{last} is the last of {}", came.picture_count());
    ensure!(file.audio.is_some() && came.statuses[0].lost == 0, "{:?}", came.statuses);
    Ok(())
}

#[test]
fn an_srt_listener_that_dies_is_found_again() -> Result<()> {
    let scratch = ScratchDir::new()?;
    let (port, file) = (free_port()?, scratch.join("second.mkv"));
    let server = SrtServer::start(port, &scratch.join("first.mkv"))?;
    let rig = PushFixture::start(Config::default(), 0)?;
    let id = rig.add_push(&format!("srt://127.0.0.1:{port}"))?;
    let before = rig.wait_for_packets(id, 60)?;
    drop(server);
    rig.wait_for_state(id, Recovering)?;
    let server = SrtServer::start(port, &file)?;
    rig.wait_for_packets(id, 100)?;
    let came = rig.finish()?;
    server.finish()?;
    let file = Recording::open(&file)?;
    let seen: Vec<_> = file
        .timecodes(TimecodePosition::PAGE)?
        .iter()
        .filter_map(|seen| Some(seen.timecode?.counter))
        .collect();
    let (first, last) = (seen[0], seen[seen.len() - 1]);
    ensure!(seen.iter().copied().eq(first..=last) && last as usize == came.picture_count() - 1, "{seen:?}");
    // `ffmpeg` shifts what it gets by nothing (`-copyts`), so these are the times of the cast, ahead by a
    // constant.
    let shown_s = file.video.seconds(file.video_packets[0].pts);
    let ahead_s = shown_s - f64::from(first) / f64::from(rig::FPS);
    ensure!((0.0..1.0).contains(&ahead_s), "picture {first} is at {shown_s} s");
    ensure!(
        came.statuses[0].reconnects == 1 && came.statuses[0].lost > 0,
        "{before:?}, then {:?}",
        came.statuses
    );
    Ok(())
}

#[test]
fn a_target_that_hangs_ends_at_once_when_it_is_removed() -> Result<()> {
    let kept = Mutex::new(Vec::new());
    let silent = start_tcp_server(move |connection| {
        kept.lock().map(|mut kept| kept.push(connection)).map_err(|_| std::io::ErrorKind::Other.into())
    })?;
    let connect = Duration::from_secs(600);
    let rig = PushFixture::start(Config { connect_timeout: connect, ..Config::default() }, 0)?;
    let id = rig.add_push(&silent)?;
    rig.wait_for_state(id, Connecting)?;
    ensure!(rig.pushes.remove(id));
    rig.wait_for(id, "end", |status| status.finished)?;
    let came = rig.finish()?;
    ensure!(came.states(id) == [Connecting, Disconnecting, Idle], "{:?}", came.states(id));
    Ok(())
}
