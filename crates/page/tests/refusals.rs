//! Whatever a page requests from the browser, as if a person had just clicked: no dialog covers the page,
//! nothing stops it, and its window keeps its size.

#[path = "live/browser_fixture.rs"]
mod browser_fixture;

use std::time::Duration;

use anyhow::{Result, ensure};

use browser_fixture::{BrowserFixture, is_uniform};

const SIZE: (u32, u32) = (800, 600);
const TEAL: u32 = 0x0f_766e;
const PAGE: &str = "<style>html { background: #0f766e; height: 100% } input, a { opacity: 0 }</style><body>";
/// How long the picture must stay unchanged.
const OBSERVATION_TIME: Duration = Duration::from_millis(700);

/// Requests: a name, and JavaScript that returns a promise or nothing.
const REQUESTS: &[(&str, &str)] = &[
    ("print", "print()"),
    ("dialogs without end", "for (let i = 0; i < 30; i++) { alert(i); confirm(i); prompt(i) }"),
    ("fullscreen", "document.documentElement.requestFullscreen()"),
    ("the keyboard", "navigator.keyboard.lock()"),
    ("the pointer", "document.body.requestPointerLock()"),
    ("a file", "Object.assign(document.createElement('input'), {type: 'file'}).click()"),
    ("a file to open", "showOpenFilePicker()"),
    ("a file to save", "showSaveFilePicker()"),
    ("a folder", "showDirectoryPicker()"),
    ("the screen", "navigator.mediaDevices.getDisplayMedia({video: true})"),
    ("camera and microphone", "navigator.mediaDevices.getUserMedia({audio: true, video: true})"),
    (
        "a passkey",
        "navigator.credentials.get({publicKey: {challenge: new Uint8Array(32),
        userVerification: 'required'}})",
    ),
    (
        "to make a passkey",
        "navigator.credentials.create({publicKey: {challenge: new Uint8Array(32), rp: {name: 'x'},
        user: {id: new Uint8Array(8), name: 'x', displayName: 'x'},
        pubKeyCredParams: [{type: 'public-key', alg: -7}]}})",
    ),
    ("a password", "navigator.credentials.get({password: true, mediation: 'required'})"),
    ("a device on USB", "navigator.usb.requestDevice({filters: []})"),
    ("a serial port", "navigator.serial.requestPort()"),
    ("an input device", "navigator.hid.requestDevice({filters: []})"),
    ("a device on Bluetooth", "navigator.bluetooth.requestDevice({acceptAllDevices: true})"),
    ("MIDI", "navigator.requestMIDIAccess({sysex: true})"),
    ("the location", "new Promise((yes, no) => navigator.geolocation.getCurrentPosition(yes, no))"),
    ("notifications", "Notification.requestPermission()"),
    ("a colour of the screen", "new EyeDropper().open()"),
    ("all screens", "getScreenDetails()"),
    ("fonts", "queryLocalFonts()"),
    (
        "to pay",
        "new PaymentRequest([{supportedMethods: 'https://a.invalid/'}], {total: {label: 'x',
        amount: {currency: 'EUR', value: '1'}}}).show()",
    ),
    ("to share", "navigator.share({text: 'x'})"),
    ("to handle mail", "navigator.registerProtocolHandler('mailto', location.origin + '/?%s')"),
    ("to write mail", "location = 'mailto:somebody@a.invalid'"),
    ("another program", "Object.assign(document.createElement('a'), {href: 'some-program:x'}).click()"),
    ("a download", "Object.assign(document.createElement('a'), {href: 'data:x,y', download: 'x'}).click()"),
    ("a window", "open('/', '_blank', 'width=300,height=300')"),
    ("a tab", "Object.assign(document.createElement('a'), {href: '/', target: '_blank'}).click()"),
    ("a window on top", "documentPictureInPicture.requestWindow()"),
    ("another size", "resizeTo(300, 300); moveTo(50, 50)"),
    ("to close the window", "close()"),
];

/// Checks that neither the picture nor the window size changes while `script` runs and afterwards.
fn assert_unchanged_by(live: &mut BrowserFixture, script: &str) -> Result<()> {
    live.wait_for_picture("the page", |p| is_uniform(p, TEAL))?;
    live.evaluate(script)?;
    live.assert_picture_stays(OBSERVATION_TIME, "the page", |p| is_uniform(p, TEAL))?;
    ensure!(live.evaluate("[innerWidth, innerHeight].join()")? == "800,600", "the window changed its size");
    Ok(())
}

#[test]
fn nothing_of_the_browser_covers_the_page() -> Result<()> {
    let mut live = BrowserFixture::open(SIZE, 1.0, PAGE)?;
    let mut failures = Vec::new();
    for (name, expression) in REQUESTS {
        let quoted = serde_json::to_string(expression)?;
        let script = format!(
            "Promise.race([(async () => eval({quoted}))().then(() => 'granted', error => error.name),
            new Promise(done => setTimeout(done, 300, 'open'))])"
        );
        if let Err(error) = assert_unchanged_by(&mut live, &script) {
            failures.push(format!("{name}: {error:#}"));
            drop(live);
            live = BrowserFixture::open(SIZE, 1.0, PAGE)?;
        }
    }
    ensure!(failures.is_empty(), "{failures:#?}");
    Ok(())
}
