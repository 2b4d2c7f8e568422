//! Facts about the machine, and a check for required programs.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use pagecast_testkit::command::{program, run_for_stdout};

use crate::baseline::CHROMIUM;

/// Required programs and their Debian packages.
const REQUIRED_PROGRAMS: [(&str, &str); 5] = [
    ("Xvfb", "xvfb"),
    ("pulseaudio", "pulseaudio"),
    ("ffmpeg", "ffmpeg"),
    ("ffprobe", "ffmpeg"),
    (CHROMIUM, "chromium"),
];

/// File that pushes require, and its Debian packages. nginx itself is not in every user's PATH.
const RTMP_MODULE: (&str, &str) =
    ("/usr/lib/nginx/modules/ngx_rtmp_module.so", "nginx-light libnginx-mod-rtmp");

/// Checks that all required programs are installed.
///
/// # Errors
/// Names the missing packages.
pub(crate) fn check_dependencies(outputs: bool) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = |name: &str| std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
    let mut missing: Vec<_> =
        REQUIRED_PROGRAMS.iter().filter(|(name, _)| !found(name)).map(|(_, package)| *package).collect();
    missing.dedup();
    if outputs && !Path::new(RTMP_MODULE.0).is_file() {
        missing.push(RTMP_MODULE.1);
    }
    ensure!(missing.is_empty(), "install what the bench needs: apt-get install {}", missing.join(" "));
    Ok(())
}

/// Names and values of the facts in the report.
pub(crate) fn machine_facts() -> Result<Vec<(&'static str, String)>> {
    let cpu_info = fs::read_to_string("/proc/cpuinfo")?;
    let mem_info = fs::read_to_string("/proc/meminfo")?;
    let value = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key));
        line.and_then(|line| line.split_once(':')).map_or_else(String::new, |(_, v)| v.trim().to_owned())
    };
    let memory_kib: f64 = value(&mem_info, "MemTotal").trim_end_matches(" kB").parse()?;
    let cores = std::thread::available_parallelism()?;
    Ok(vec![
        ("date", first_line("date", &["-u", "+%Y-%m-%d %H:%M UTC"])?),
        ("processor", format!("{cores} x {}", value(&cpu_info, "model name"))),
        ("memory", format!("{:.0} GiB", memory_kib / 1024.0 / 1024.0)),
        ("kernel", first_line("uname", &["-sr"])?),
        ("browser", first_line(CHROMIUM, &["--version"])?),
        ("baseline's ffmpeg", first_line("ffmpeg", &["-version"])?.split(" Copyright").take(1).collect()),
        ("baseline's sound", first_line("pulseaudio", &["--version"])?),
    ])
}

fn first_line(name: &str, arguments: &[&str]) -> Result<String> {
    let text = run_for_stdout(program(name).args(arguments))?;
    let text = String::from_utf8_lossy(&text).into_owned();
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}
