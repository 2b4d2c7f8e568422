//! Runs of samples with gaps, overlaps and late ends become a gapless AAC track.

#[path = "synthetic/stream.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod stream;

use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use pagecast_core::{MediaTime, Packet, SAMPLE_RATE};
use pagecast_media::encode::{EndTime, audio};
use pagecast_testkit::media::beeps::rms;
use pagecast_testkit::{Recording, ScratchDir};

use stream::{encode_audio, encode_video, end_at, record_to_file, sample_run, tick};

/// Checks that packets have no gaps and returns the number of samples without priming.
fn total_samples(packets: &[Packet]) -> Result<i64> {
    let at = |t: MediaTime| t.to_index(SAMPLE_RATE);
    for pair in packets.windows(2) {
        ensure!(at(pair[0].pts) + at(pair[0].duration) == at(pair[1].pts), "a gap after {:?}", pair[0].pts);
    }
    Ok(packets.last().map_or(0, |p| at(p.pts) + at(p.duration)))
}

/// Decodes the left channel.
fn decode_left(packets: Vec<Packet>) -> Result<Vec<f32>> {
    let scratch = ScratchDir::new()?;
    let path = scratch.join("sound.mp4");
    let (mut all, _) = encode_video(30, vec![tick(30, 0, true)?, tick(30, 59, false)?], EndTime::new(None))?;
    all.extend(packets);
    record_to_file(&path, 30, all)?;
    let [left, _] = Recording::open(&path)?.pcm()?.channels()?;
    Ok(left)
}

#[test]
fn a_gap_is_silence_of_the_same_length() -> Result<()> {
    let runs = vec![sample_run(0, 4800, 0.5), sample_run(9600, 4800, 0.5)];
    let (packets, stats) = encode_audio(runs, end_at(14_400))?;
    ensure!(
        total_samples(&packets)? == 14_400 && stats.silence_samples() == 4800,
        "{} filled",
        stats.silence_samples()
    );
    let left = decode_left(packets)?;
    // A constant level decodes to silence except at its start and end.
    let quiet = rms(&left[6000..8400]);
    let loud = rms(&left[4000..4700]);
    ensure!(quiet < 0.02 && loud > 0.2, "{quiet} in the gap, {loud} before it");
    Ok(())
}

#[test]
fn overlapping_samples_are_encoded_once() -> Result<()> {
    let runs = vec![
        sample_run(0, 4800, 0.5),
        sample_run(2400, 4800, -0.5),
        sample_run(0, 100, -0.5),
        sample_run(7200, 0, 0.0),
    ];
    let (packets, stats) = encode_audio(runs, EndTime::new(None))?;
    ensure!(total_samples(&packets)? == 7200 && stats.silence_samples() == 0);
    let left = decode_left(packets)?;
    ensure!(left[4300..4700].iter().all(|v| *v > 0.3), "the first samples win");
    ensure!(left[5000..6800].iter().all(|v| *v < -0.3), "only the new part is used");
    Ok(())
}

#[test]
fn runs_end_exactly_at_the_end() -> Result<()> {
    for (runs, wanted) in [
        (vec![sample_run(0, 48_000, 0.1)], 10_000),
        (vec![sample_run(0, 9_000, 0.1), sample_run(20_000, 10, 0.1)], 10_000),
        (vec![sample_run(0, 9_000, 0.1)], 10_000),
        (vec![sample_run(10_000, 10, 0.1)], 10_000),
        (Vec::new(), 10_000),
        (vec![sample_run(0, 100, 0.1)], 0),
    ] {
        let (packets, _) = encode_audio(runs, end_at(wanted))?;
        ensure!(
            total_samples(&packets)? == wanted,
            "{} samples instead of {wanted}",
            total_samples(&packets)?
        );
    }
    Ok(())
}

#[test]
fn without_an_end_the_last_sample_is_the_end() -> Result<()> {
    let (packets, _) =
        encode_audio(vec![sample_run(0, 5000, 0.1), sample_run(5000, 5000, 0.1)], EndTime::new(None))?;
    ensure!(total_samples(&packets)? == 10_000);
    Ok(())
}

#[test]
fn an_end_in_the_past_ends_the_encoder_at_once() -> Result<()> {
    let (runs_in, runs) = sync_channel(0);
    let (packets_in, packets) = sync_channel(1000);
    let end = EndTime::new(None);
    let thread = audio::Encoder::open(audio::Config::FILES)?.spawn(runs, end.clone(), packets_in)?;
    runs_in.send(sample_run(0, 48_000, 0.1))?;
    // An empty run is taken only after the previous one was processed.
    runs_in.send(sample_run(48_000, 0, 0.1))?;
    end.set(MediaTime::from_index(1, 2));
    // Fails if the encoder has ended already.
    let _ended = runs_in.send(sample_run(48_000, 4800, 0.1));
    ensure!(thread.join().is_ok_and(|r| r.is_ok()), "the encoder failed");
    ensure!(total_samples(&packets.iter().collect::<Vec<_>>())? == 48_000);
    Ok(())
}

#[test]
fn without_a_receiver_a_day_of_silence_is_not_encoded() -> Result<()> {
    let (packets_in, packets) = sync_channel(1);
    drop(packets);
    let begin = Instant::now();
    let thread = audio::Encoder::open(audio::Config::FILES)?.spawn(
        stream::channel_of(Vec::new()),
        end_at(86_400 * 48_000),
        packets_in,
    )?;
    ensure!(thread.join().is_ok_and(|r| r.is_ok()), "the encoder failed");
    ensure!(begin.elapsed() < Duration::from_secs(2), "it took {:?}", begin.elapsed());
    Ok(())
}
