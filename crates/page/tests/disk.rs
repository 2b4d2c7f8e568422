//! The browser's quota stops a page that stores as much as it can, long before the disk is full.

#[path = "live/browser_fixture.rs"]
mod browser_fixture;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use browser_fixture::BrowserFixture;
use pagecast_page::DiskUsage;
use pagecast_testkit::wait_until;

/// Disk limit of the page, in MiB: the smallest that a cast may have.
const QUOTA_MIB: u64 = 256;
/// How much the page tries to store in each kind of storage, in MiB.
const ATTEMPTED_MIB: u64 = 640;

/// A script that stores [`ATTEMPTED_MIB`] in pieces with `store(name, bytes)`. Returns the MiB that were
/// stored, and the error that ended it.
fn script(prepare: &str, store: &str) -> String {
    format!(
        "(async () => {{
            // Random bytes, which databases cannot compress.
            const noise = crypto.getRandomValues(new Uint8Array(1 << 16));
            const piece = new Uint8Array(16 << 20);
            for (let at = 0; at < piece.length; at += noise.length) {{ piece.set(noise, at); }}
            let stored = 0, error_name = '';
            try {{
                {prepare}
                for (let i = 0; i < {ATTEMPTED_MIB} / 16; i++) {{
                    await ({store})('n' + i, piece);
                    stored += 16;
                }}
            }} catch (error) {{ error_name = error ? error.name : 'aborted'; }}
            return [stored, error_name];
        }})()"
    )
}

/// The first measurement that begins after the call.
fn measured(live: &BrowserFixture) -> Result<DiskUsage> {
    let begin = Instant::now();
    wait_until("the disk is measured", Duration::from_secs(30), || {
        let usage = live.page.disk_usage();
        ensure!(usage.measured_at.is_some_and(|at| at > begin), "last measured at {:?}", usage.measured_at);
        Ok(usage)
    })
}

#[test]
fn a_page_cannot_fill_the_disk() -> Result<()> {
    let live = BrowserFixture::open_with_disk(QUOTA_MIB << 20, "<h1>greedy</h1>")?;
    let fresh = measured(&live)?.used_bytes;
    println!("a fresh browser takes {} MiB", fresh >> 20);
    ensure!(fresh < 100 << 20, "{fresh} bytes of a fresh browser");
    let files = script(
        "const root = await navigator.storage.getDirectory();",
        "async (name, piece) => {
            const file = await (await root.getFileHandle(name, {create: true})).createWritable();
            await file.write(piece); await file.close();
        }",
    );
    let cache = script(
        "const cache = await caches.open('c');",
        "(name, piece) => cache.put('/' + name, new Response(piece))",
    );
    let database = script(
        "const db = await new Promise((done, failed) => {
            const open = indexedDB.open('d', 1);
            open.onupgradeneeded = () => open.result.createObjectStore('s');
            open.onsuccess = () => done(open.result); open.onerror = () => failed(open.error);
        });",
        "(name, piece) => new Promise((done, failed) => {
            const all = db.transaction('s', 'readwrite');
            all.objectStore('s').put(piece, name);
            all.oncomplete = done;
            all.onabort = all.onerror = () => failed(all.error);
        })",
    );
    for (storage, script) in [("OPFS", files), ("Cache", cache), ("IndexedDB", database)] {
        let answer = live.evaluate(&script)?;
        let DiskUsage { used_bytes: used, free_bytes: free, .. } = measured(&live)?;
        println!("{storage}: {answer}, {} MiB on the disk, {} MiB free", used >> 20, free >> 20);
        let stored = answer[0].as_u64().context("a number")?;
        ensure!(answer[1] == "QuotaExceededError", "{storage}: {answer}");
        ensure!(stored < QUOTA_MIB && used < (QUOTA_MIB + 64) << 20, "{storage}: {stored} MiB, {used} bytes");
    }
    Ok(())
}
