//! The resources of one cast are closed to other users of this machine, and to browsers of other casts.

#[path = "live/browser_fixture.rs"]
mod browser_fixture;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use browser_fixture::BrowserFixture;
use pagecast_page::child::Isolation;
use pagecast_testkit::command::program;

/// An unassigned user id, for a test that must not run as root.
const UNPRIVILEGED_UID: u32 = 60_701;
/// Environment variable that is set for the test that runs as this user.
const UNPRIVILEGED_VARIABLE: &str = "PAGECAST_TEST_AS_PLAIN_USER";
/// Environment variable for the helper below: the run folder of a cast, and the address of its egress proxy.
const TARGET_VARIABLE: &str = "PAGECAST_TEST_TARGET";
const TIMEOUT: Duration = Duration::from_secs(10);

/// Reply of the egress proxy to a SOCKS greeting; empty if it closes the connection.
fn proxy_greeting_reply(proxy: SocketAddr) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(proxy)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    // The proxy may close the connection before that.
    let _sent = stream.write_all(&[5, 1, 0]);
    let mut answer = [0; 2];
    let read = stream.read(&mut answer).unwrap_or(0);
    Ok(answer[..read].to_vec())
}

/// Not a test by itself: the test below runs it as another user. It prints which resources of a cast that
/// user can access.
#[test]
fn helper() -> Result<()> {
    let Ok(target) = std::env::var(TARGET_VARIABLE) else { return Ok(()) };
    let (folder, proxy) = target.split_once(' ').context("a folder and an address")?;
    let folder = PathBuf::from(folder);
    for socket in ["wayland", "pulse"] {
        println!("{socket} {}", UnixStream::connect(folder.join(socket)).is_ok());
    }
    println!("list {}", std::fs::read_dir(&folder).is_ok());
    println!("profile {}", std::fs::read_dir(folder.join("browser-1/profile")).is_ok());
    println!("preferences {}", std::fs::read(folder.join("browser-1/profile/Default/Preferences")).is_ok());
    println!("egress {}", !proxy_greeting_reply(proxy.parse()?)?.is_empty());
    Ok(())
}

/// Names of the resources of a cast that a process with this user and group can access.
fn accessible_to(uid: u32, live: &BrowserFixture) -> Result<Vec<String>> {
    let folder = run_folder(live)?;
    let mut command = program(&std::env::current_exe()?);
    command.args(["--exact", "helper", "--nocapture"]);
    command.env(TARGET_VARIABLE, format!("{} {}", folder.display(), live.page.egress.address()));
    let output = command.uid(uid).gid(uid).current_dir("/").output()?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    let words = stdout.lines().filter_map(|line| line.strip_suffix(" true").map(str::to_owned)).collect();
    ensure!(stdout.contains("egress "), "{stdout}");
    Ok(words)
}

fn run_folder(live: &BrowserFixture) -> Result<&Path> {
    live.page.sound.socket().parent().context("no folder")
}

fn owner_and_mode(path: &Path) -> Result<(u32, u32, u32)> {
    let meta = std::fs::metadata(path).with_context(|| path.display().to_string())?;
    Ok((meta.uid(), meta.gid(), meta.permissions().mode() & 0o777))
}

#[test]
fn resources_of_a_cast_are_closed_to_other_users() -> Result<()> {
    if !pagecast_testkit::is_root_or_skip("running a browser as another user needs root") {
        return Ok(());
    }
    let first = BrowserFixture::open((320, 180), 1.0, "<h1>first</h1>")?;
    let second = first.start_another_page()?;
    let users: Vec<u32> = [&first.page, &second]
        .iter()
        .map(|page| match page.isolation() {
            Isolation::User(uid) => Ok(uid),
            other => anyhow::bail!("the browser has no user of its own: {other:?}"),
        })
        .collect::<Result<_>>()?;
    ensure!(users[0] != users[1] && users.iter().all(|uid| *uid >= 1000), "{users:?}");
    let (own, other) = (users[0], users[1]);
    let folder = run_folder(&first)?;
    ensure!(owner_and_mode(folder)? == (0, own, 0o710), "{:?}", owner_and_mode(folder)?);
    ensure!(owner_and_mode(&folder.join("browser-1"))? == (own, own, 0o700));
    for socket in ["wayland", "pulse"] {
        ensure!(
            owner_and_mode(&folder.join(socket))? == (own, own, 0o600),
            "{:?}",
            owner_and_mode(&folder.join(socket))?
        );
    }
    // The own user has access, which shows that the helper works.
    let all = ["wayland", "pulse", "profile", "preferences", "egress"];
    ensure!(accessible_to(own, &first)? == all, "{:?}", accessible_to(own, &first)?);
    for stranger in [other, 65_534, 1000] {
        let reached = accessible_to(stranger, &first)?;
        ensure!(reached.is_empty(), "user {stranger} can access {reached:?} of user {own}");
    }
    // Not even root, as which the processes of other casts run, may use the proxy.
    ensure!(proxy_greeting_reply(first.page.egress.address())?.is_empty(), "the proxy serves root");
    // The browser runs as the user, without further groups.
    let pid = first.page.browser()?.pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
    ensure!(line("Uid:") == Some(&format!("{own}\t{own}\t{own}\t{own}")), "{:?}", line("Uid:"));
    ensure!(line("Groups:") == Some(""), "{:?}", line("Groups:"));
    Ok(())
}

#[test]
fn browsers_of_an_unprivileged_user_see_nothing_of_each_other_or_the_service() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return assert_namespaces_isolate();
    }
    if std::env::var_os(UNPRIVILEGED_VARIABLE).is_some() {
        return Ok(());
    }
    // Outside of the temporary folder, which is hidden as a whole.
    let home = PathBuf::from(format!("/var/tmp/pagecast-home-{}", std::process::id()));
    std::fs::create_dir(&home)?;
    std::fs::write(home.join("secret.key"), "x")?;
    std::os::unix::fs::chown(&home, Some(UNPRIVILEGED_UID), Some(UNPRIVILEGED_UID))?;
    let mut command = program(&std::env::current_exe()?);
    let name = "browsers_of_an_unprivileged_user_see_nothing_of_each_other_or_the_service";
    command.args(["--exact", name, "--nocapture"]);
    command.env(UNPRIVILEGED_VARIABLE, "1").env("HOME", &home).current_dir("/");
    let output = command.uid(UNPRIVILEGED_UID).gid(UNPRIVILEGED_UID).output()?;
    std::fs::remove_dir_all(home)?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    ensure!(stdout.contains("a browser sees its own run folder only"), "{stdout}");
    Ok(())
}

/// Checks the isolation by namespaces, for a process that is not root.
#[expect(clippy::print_stdout, reason = "the test that runs as root checks the output")]
fn assert_namespaces_isolate() -> Result<()> {
    let first = BrowserFixture::open((320, 180), 1.0, "<h1>first</h1>")?;
    let second = first.start_another_page()?;
    ensure!(first.page.isolation() == Isolation::Namespaces, "{:?}", first.page.isolation());
    let own = run_folder(&first)?;
    let other = second.sound.socket().parent().context("no folder")?;
    let unshare = first.page.browser()?.pid();
    let children = std::fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children"))?;
    let browser = children.split_whitespace().next().context("no browser")?.to_owned();
    // Runs a script with the rights of the browser's namespaces.
    let inside = |script: &str| -> Result<String> {
        let mut command = program(Path::new("/usr/bin/nsenter"));
        command.args(["--preserve-credentials", "--user", "--mount", "--pid", "--target", &browser]);
        let output = command.args(["/bin/sh", "-c", script]).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
    };
    let listed = inside(&format!("ls -d {}/*", std::env::temp_dir().display()))?;
    ensure!(listed.trim() == own.display().to_string(), "{listed}");
    println!("a browser sees its own run folder only");
    let socket = other.join("wayland");
    let us = std::process::id();
    for (target, script) in [
        ("the socket of another cast", format!("test -e {}", socket.display())),
        ("our process", format!("kill -0 {us}")),
        ("shared memory of others", "ls /dev/shm/* 2>/dev/null | grep -v chromium".to_owned()),
    ] {
        let output = inside(&format!("({script}) && echo seen"))?;
        ensure!(!output.contains("seen"), "a browser sees {target}: {output}");
    }
    let commands = inside("cat /proc/[0-9]*/cmdline")?;
    ensure!(commands.contains(own.to_str().context("a name")?), "{commands}");
    ensure!(!commands.contains(other.to_str().context("a name")?), "{commands}");
    // The script above had all capabilities in there; the browser has dropped them.
    let status = std::fs::read_to_string(format!("/proc/{browser}/status"))?;
    let capabilities =
        status.lines().find_map(|line| line.strip_prefix("CapPrm:")).context("no capabilities")?;
    ensure!(
        capabilities.trim().chars().all(|digit| digit == '0'),
        "the browser has capabilities {capabilities}"
    );
    if let Some(home) = std::env::var_os("HOME").map(PathBuf::from) {
        let output = inside(&format!("ls -a {}", home.display()))?;
        ensure!(!output.contains("secret.key"), "{output}");
    }
    Ok(())
}
