//! Tests with made-up estimates and a simulated clock.

use super::*;
use pagecast_core::Fps;
use pagecast_core::spec::Size;

fn layer(width: u32, height: u32) -> Layer {
    let fps = Fps::new(30).unwrap();
    Layer { size: Size::new(width, height).unwrap(), fps, bitrate_kbps: None }
}

/// The targets of the layers after `seconds` at this estimate, in kbit/s and frames per second.
fn settle(controller: &mut BitrateController, now: &mut Instant, bps: u32, seconds: f64) -> Vec<(u32, u32)> {
    let end = *now + Duration::from_secs_f64(seconds);
    while *now < end {
        *now += Duration::from_millis(100);
        controller.handle(*now, Input::Estimate(bps));
    }
    controller.targets().map(|t| (t.bitrate_bps / 1000, t.fps)).collect()
}

/// The targets that are reported: layer, bitrate in bit/s and frames per second.
fn reported(controller: &mut BitrateController) -> Vec<(usize, u32, u32)> {
    let target = |output| match output {
        Output::SetTarget { layer, target } => Some((layer, target.bitrate_bps, target.fps)),
        Output::ResetEstimate(_) => None,
    };
    std::iter::from_fn(|| controller.poll()).filter_map(target).collect()
}

#[test]
fn starts_at_the_caps_and_reports_them_once() {
    let mut controller = BitrateController::new(&[layer(1280, 720), layer(640, 360)]);
    assert_eq!(controller.deadline(), None);
    let now = Instant::now();
    controller.handle(now, Input::Start);
    assert_eq!(reported(&mut controller), [(0, 1_200_000, 30), (1, 600_000, 30)]);
    assert_eq!(reported(&mut controller), []);
    assert_eq!(controller.deadline(), Some(now + UPDATE_INTERVAL));
    controller.handle(now, Input::Stop);
    assert_eq!(reported(&mut controller), [(0, 0, 30), (1, 0, 30)]);
    assert_eq!(controller.deadline(), None);
}

#[test]
fn the_larger_layer_pauses_first_and_frame_rates_fall_before_sharpness() {
    let (mut now, mut controller) =
        (Instant::now(), BitrateController::new(&[layer(1280, 720), layer(640, 360)]));
    controller.handle(now, Input::Start);
    assert_eq!(settle(&mut controller, &mut now, 500_000, 0.2), [(0, 7), (340, 30)]);
    assert_eq!(settle(&mut controller, &mut now, 180_000, 0.2), [(0, 7), (52, 7)]);
    assert_eq!(settle(&mut controller, &mut now, 150_000, 0.2), [(0, 7), (0, 7)], "audio has priority");
    assert_eq!(settle(&mut controller, &mut now, 5_000_000, 8.0), [(1200, 30), (600, 30)]);
}

#[test]
fn bitrates_grow_in_steps_and_fall_at_once() {
    let (mut now, mut controller) = (Instant::now(), BitrateController::new(&[layer(1280, 720)]));
    controller.handle(now, Input::Start);
    assert_eq!(settle(&mut controller, &mut now, 500_000, 0.1), [(340, 15)]);
    let after = settle(&mut controller, &mut now, 5_000_000, 1.1)[0];
    assert!((440..=760).contains(&after.0) && after.1 == 30, "{after:?}");
    assert_eq!(settle(&mut controller, &mut now, 5_000_000, 4.0), [(1200, 30)]);
}

/// Made-up estimates of a lossless link in bit/s, with round-trip times in ms and loss in percent, one
/// every 250 ms.
const FALSE_ESTIMATES: [(u32, u64, u32); 12] = [
    (1_500_000, 3, 0),
    (1_500_000, 4, 0),
    (2_600_000, 4, 0),
    (2_600_000, 9, 0),
    (300_000, 15, 0),
    (240_000, 6, 0),
    (110_000, 5, 0),
    (110_000, 12, 0),
    (130_000, 4, 0),
    (190_000, 5, 0),
    (260_000, 4, 0),
    (300_000, 4, 0),
];

/// Lowest bitrate of each layer from the fifth measurement on in kbit/s, and whether the estimate was
/// reset.
fn replay(controller: &mut BitrateController, delay: u64, loss: u32) -> (Vec<u32>, bool) {
    let (mut now, mut lowest, mut was_reset) = (Instant::now(), vec![u32::MAX; 2], false);
    controller.handle(now, Input::Start);
    for (index, (estimate, rtt, lost)) in FALSE_ESTIMATES.into_iter().enumerate() {
        now += Duration::from_millis(250);
        controller.handle(now, Input::Estimate(estimate));
        let (rtt, loss) = if index > 3 { (rtt + delay, lost + loss) } else { (rtt, lost) };
        let link = LinkStats {
            rtt: Some(Duration::from_millis(rtt)),
            loss: Some(loss as f32 / 100.0),
            estimate_bps: Some(estimate.into()),
        };
        controller.handle(now, Input::LinkMeasured { link, sent_bps: 1_300_000 });
        was_reset |=
            std::iter::from_fn(|| controller.poll()).any(|output| matches!(output, Output::ResetEstimate(_)));
        for (lowest, target) in lowest.iter_mut().zip(controller.targets()).filter(|_| index > 3) {
            *lowest = (*lowest).min(target.bitrate_bps / 1000);
        }
    }
    (lowest, was_reset)
}

#[test]
fn a_clear_link_keeps_its_bitrate_whatever_is_estimated() {
    let mut controller = BitrateController::new(&[layer(1280, 720), layer(640, 360)]);
    let (lowest, was_reset) = replay(&mut controller, 0, 0);
    assert!(lowest[0] >= 600 && lowest[1] == 600 && was_reset, "{lowest:?}");
    // The same estimates on a link that delays or loses packets.
    for (delay, loss) in [(250, 0), (0, 15)] {
        let (lowest, was_reset) = replay(&mut controller, delay, loss);
        assert!(lowest == [0, 0] && !was_reset, "{delay} ms, {loss} %: {lowest:?}");
    }
    // Some loss lowers bitrate and frame rate, but does not pause the video.
    let (lowest, was_reset) = replay(&mut controller, 0, 3);
    assert!(lowest[0] == 0 && (40..60).contains(&lowest[1]) && !was_reset, "{lowest:?}");
}

#[test]
fn the_servers_limit_applies() {
    let (mut now, mut controller) = (Instant::now(), BitrateController::new(&[layer(1280, 720)]));
    controller.handle(now, Input::Start);
    settle(&mut controller, &mut now, 5_000_000, 1.0);
    let link = LinkStats { rtt: None, loss: Some(0.0), estimate_bps: None };
    controller.handle(now, Input::LinkMeasured { link, sent_bps: 0 });
    controller.handle(now, Input::ReceiverLimit(700_000));
    assert_eq!(controller.targets().next().unwrap().bitrate_bps, 520_000);
}

#[test]
fn small_changes_are_not_reported() {
    let (mut now, mut controller) = (Instant::now(), BitrateController::new(&[layer(1280, 720)]));
    controller.handle(now, Input::Start);
    settle(&mut controller, &mut now, 900_000, 0.1);
    reported(&mut controller);
    settle(&mut controller, &mut now, 895_000, 0.1);
    assert_eq!(reported(&mut controller), []);
    settle(&mut controller, &mut now, 700_000, 0.1);
    assert_eq!(reported(&mut controller).len(), 1);
}

#[test]
fn an_unwatched_layer_is_paused() {
    let (now, mut controller) =
        (Instant::now(), BitrateController::new(&[layer(1280, 720), layer(640, 360)]));
    controller.handle(now, Input::Start);
    reported(&mut controller);
    controller.handle(now, Input::Subscribed { layer: 0, subscribed: false });
    assert_eq!(reported(&mut controller), [(0, 0, 7)]);
    controller.handle(now, Input::Subscribed { layer: 0, subscribed: true });
    assert_eq!(reported(&mut controller), [(0, 1_200_000, 30)]);
    controller.handle(now, Input::Subscribed { layer: 7, subscribed: true });
    assert_eq!(reported(&mut controller), []);
}

#[test]
fn losses_count_without_estimates() {
    let (mut now, mut controller) = (Instant::now(), BitrateController::new(&[layer(1280, 720)]));
    controller.handle(now, Input::Start);
    for _ in 0..10 {
        now += Duration::from_secs(1);
        controller.handle(now, Input::Loss(0.2));
    }
    let low = controller.targets().next().unwrap().bitrate_bps;
    assert!(low < 600_000, "{low}");
    for _ in 0..30 {
        now += Duration::from_secs(1);
        controller.handle(now, Input::Loss(0.0));
    }
    assert_eq!(controller.targets().next().unwrap().bitrate_bps, 1_200_000);
}
