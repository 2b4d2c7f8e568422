use pagecast_core::{spec::*, *};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};
fn main() {
    let url = std::env::args().nth(1).unwrap();
    let fps: u32 = std::env::args().nth(2).map_or(30, |s| s.parse().unwrap());
    let sf: f64 = std::env::args().nth(3).map_or(1.0, |s| s.parse().unwrap());
    let t0 = Instant::now();
    let source = Source { url: SourceUrl::parse(&url).unwrap(), size: Size::new(1280, 720).unwrap(), fps: Fps::new(fps).unwrap(), scale_factor: sf };
    let (tx, rx) = sync_channel(4);
    let (stx, _srx) = sync_channel(100);
    let page = pagecast_page::Page::start(&source, tx, stx).unwrap();
    eprintln!("started {:?}", t0.elapsed());
    page.browser.open(&source.url).unwrap();
    eprintln!("opened {:?}", t0.elapsed());
    let st = page.browser.wait_until(Duration::from_secs(5), |s| s.painted || s.loaded).unwrap();
    eprintln!("painted {:?} {st:?}", t0.elapsed());
    page.begin();
    let mut last = None;
    let (mut frames, mut n) = (0, 0);
    while let Ok(t) = rx.recv_timeout(Duration::from_secs(3)) {
        n += 1;
        if let Some(f) = t.frame { frames += 1; if last.is_none() { eprintln!("first {:?}", t0.elapsed()); } last = Some(f.picture); }
        if n == fps * 5 { break; }
    }
    eprintln!("{n} ticks {frames} frames {:?}", page.display.stats());
    let p = last.unwrap();
    let mut ppm = format!("P6\n{} {}\n255\n", p.width(), p.height()).into_bytes();
    for px in p.bgrx().chunks(4) { ppm.extend([px[2], px[1], px[0]]); }
    std::fs::write("/tmp/probe.ppm", ppm).unwrap();
    let v = page.browser.call("Runtime.evaluate", serde_json::json!({"expression":"JSON.stringify([innerWidth,innerHeight,devicePixelRatio,document.hasFocus(),document.visibilityState,matchMedia('(hover:hover)').matches,navigator.userAgent, document.fullscreenElement, window.N])","returnByValue":true})).unwrap();
    eprintln!("{v}");
    eprintln!("{:?}", page.browser.console());
}
