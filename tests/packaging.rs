//! Checks the files in `packaging/` without running systemd or Docker.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::ScratchDir;
use pagecast_testkit::command::{install_hint, program, run_for_output, run_for_stdout};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
/// Path of the program in the unit and in the image.
const INSTALLED_PROGRAM: &str = "/usr/local/bin/pagecast";
/// Path of the configuration in the unit and in the image.
const CONFIG: &str = "/etc/pagecast/pagecast.toml";
/// Data folder in the unit and in the image.
const DATA: &str = "/var/lib/pagecast";
/// Packages that every Debian system has.
const BASE_PACKAGES: [&str; 2] = ["libc6", "libgcc-s1"];

fn read_file(path: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// A command of the unit or the image, with scratch files instead of installed ones, and with
/// `--check-config`.
fn check_config_command(words: &[&str], scratch: &ScratchDir) -> Result<Command> {
    let config = scratch.join("pagecast.toml");
    fs::write(&config, "")?;
    let (first, arguments) = words.split_first().context("no command")?;
    ensure!([INSTALLED_PROGRAM, "pagecast"].contains(first), "unknown program {first}");
    ensure!(arguments.first() == Some(&"serve"), "{words:?}");
    let mut command = program(PAGECAST);
    for word in arguments {
        command.arg(match *word {
            CONFIG => config.clone(),
            DATA => scratch.join("data"),
            word => PathBuf::from(word),
        });
    }
    ensure!(words.windows(2).any(|pair| pair == ["--config", CONFIG]), "{words:?}");
    ensure!(words.windows(2).any(|pair| pair == ["--data", DATA]), "{words:?}");
    if !words.contains(&"--check-config") {
        command.arg("--check-config");
    }
    Ok(command)
}

/// Instructions of a Dockerfile, with continuation lines joined, without comments.
fn instructions(text: &str) -> Vec<String> {
    let text: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    text.join("\n").replace("\\\n", " ").lines().map(str::to_owned).filter(|line| !line.is_empty()).collect()
}

/// Instructions of each stage of the image.
fn stages() -> Result<Vec<Vec<String>>> {
    let mut stages: Vec<Vec<String>> = Vec::new();
    for line in instructions(&read_file("packaging/Dockerfile")?) {
        if line.starts_with("FROM ") {
            stages.push(Vec::new());
        }
        stages.last_mut().context("no FROM")?.push(line);
    }
    ensure!(stages.len() == 2, "{stages:#?}");
    Ok(stages)
}

/// Packages that a stage installs.
fn installed_packages(stage: &[String]) -> BTreeSet<String> {
    let installed = stage.iter().filter_map(|line| line.split_once("apt-get install ")).map(|(_, rest)| rest);
    let words = installed.flat_map(|rest| rest.split("&&").next().unwrap_or_default().split_whitespace());
    words.filter(|word| !word.starts_with('-')).map(str::to_owned).collect()
}

/// Arguments of the last instruction with this name.
fn last_instruction<'a>(stage: &'a [String], name: &str) -> Result<&'a str> {
    stage.iter().rev().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))
}

#[test]
fn the_unit_is_valid() -> Result<()> {
    let (unit, scratch) = (read_file("packaging/pagecast.service")?, ScratchDir::new()?);
    let copy = scratch.join("pagecast.service");
    fs::write(&copy, unit.replace(INSTALLED_PROGRAM, PAGECAST))?;
    // It prints warnings about the unit to stderr, with exit code 0.
    let mut verify = program("systemd-analyze");
    let output = run_for_output(verify.args(["verify", "--man=no"]).arg(&copy))?;
    let warnings = String::from_utf8(output.stderr)?;
    ensure!(!warnings.contains("pagecast.service"), "{warnings}");
    // It refuses a unit whose program does not exist.
    let mut verify = program("systemd-analyze");
    fs::write(&copy, unit.replace(INSTALLED_PROGRAM, "/nowhere/pagecast"))?;
    ensure!(
        run_for_output(verify.args(["verify", "--man=no"]).arg(&copy)).is_err(),
        "a unit without its program is accepted"
    );

    let commands =
        unit.lines().filter_map(|line| line.split_once('=')).filter(|(key, _)| key.starts_with("Exec"));
    let commands: Vec<Vec<&str>> = commands.map(|(_, words)| words.split(' ').collect()).collect();
    ensure!(commands.len() == 2, "{commands:?}");
    for words in &commands {
        run_for_output(&mut check_config_command(words, &scratch)?).with_context(|| words.join(" "))?;
    }
    let state = format!("StateDirectory={}", DATA.rsplit('/').next().unwrap_or_default());
    for line in [state.as_str(), "Delegate=yes", "KillMode=mixed", "User=pagecast"] {
        ensure!(unit.lines().any(|known| known == line), "no {line}");
    }
    Ok(())
}

#[test]
fn the_image_starts_the_service() -> Result<()> {
    let (stages, scratch) = (stages()?, ScratchDir::new()?);
    let last = |word| last_instruction(&stages[1], word);
    let words = |word| -> Result<Vec<String>> { Ok(serde_json::from_str(last(word)?)?) };
    let words = [words("ENTRYPOINT ")?, words("CMD ")?].concat();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    run_for_output(&mut check_config_command(&words, &scratch)?).with_context(|| words.join(" "))?;
    ensure!(
        last("COPY ")?.ends_with(&format!("/target/release/pagecast {INSTALLED_PROGRAM}")),
        "{stages:#?}"
    );
    ensure!(last("VOLUME ")? == DATA && last("USER ")? == "pagecast", "{stages:#?}");
    ensure!(stages[1].iter().any(|line| line.contains(&format!("--home-dir {DATA} --create-home pagecast"))));
    // Both stages have the same libraries.
    ensure!(stages[0][0].trim_end_matches(" AS build") == stages[1][0], "{stages:#?}");
    // The guide's configuration for the image listens on the exposed ports.
    let guide = read_file("docs/guides/service.md")?;
    let (_, docker) = guide.split_once("\n## Docker\n").context("no Docker in the guide")?;
    let toml = docker.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
    let toml: toml::Table = toml.context("no configuration")?.parse()?;
    let port = |value: &toml::Value| {
        value.as_str().and_then(|address| address.strip_prefix("0.0.0.0:")).unwrap_or_default().to_owned()
    };
    let (main, media) = (port(&toml["listen"]), port(&toml["rooms"]["media_listen"]));
    ensure!(last("EXPOSE ")? == format!("{main} {media} {media}/udp"), "{}", last("EXPOSE ")?);
    for port in [&main, &media, &format!("{media}/udp")] {
        let bare = port.trim_end_matches("/udp");
        ensure!(
            read_file("packaging/Dockerfile")?.contains(&format!(" -p {bare}:{port} ")),
            "{port} is not published"
        );
    }
    Ok(())
}

#[test]
fn the_image_is_built_with_our_packages_and_compiler() -> Result<()> {
    let build = stages()?.swap_remove(0);
    let packages = installed_packages(&build);
    let makefile = read_file("Makefile")?.replace("\\\n", " ");
    let ours = makefile.lines().find_map(|line| line.strip_prefix("BUILD := ")).context("no BUILD")?;
    let missing: Vec<_> = ours.split_whitespace().filter(|name| !packages.contains(*name)).collect();
    ensure!(missing.is_empty(), "the image lacks {missing:?}");
    let manifest: toml::Table = read_file("Cargo.toml")?.parse()?;
    let rust = manifest["workspace"]["package"]["rust-version"].as_str().context("no version")?;
    ensure!(
        build.iter().any(|line| line.contains(&format!("--default-toolchain {rust}"))),
        "not Rust {rust}"
    );
    Ok(())
}

#[test]
fn all_packages_exist() -> Result<()> {
    let stages = stages()?;
    let all: BTreeSet<String> =
        installed_packages(&stages[0]).union(&installed_packages(&stages[1])).cloned().collect();
    // apt-cache does not name missing packages, so they are computed from the output.
    let output = program("apt-cache").args(["show", "--no-all-versions"]).args(&all).output();
    let output = output.with_context(|| install_hint("apt-cache"))?;
    let shown = String::from_utf8(output.stdout)?;
    let shown: BTreeSet<&str> = shown.lines().filter_map(|line| line.strip_prefix("Package: ")).collect();
    let missing: Vec<_> = all.iter().filter(|name| !shown.contains(name.as_str())).collect();
    ensure!(missing.is_empty(), "the packages {missing:?} do not exist, or run apt-get update first");
    Ok(())
}

#[test]
fn the_image_has_exactly_the_linked_libraries() -> Result<()> {
    let installed = installed_packages(&stages()?[1]);
    let needed = String::from_utf8(run_for_stdout(program("objdump").args(["-p", PAGECAST]))?)?;
    let needed = needed.lines().filter_map(|line| line.trim().strip_prefix("NEEDED")).map(str::trim);
    let mut owners = BTreeSet::new();
    for library in needed.filter(|name| !name.starts_with("ld-linux")) {
        // Debian has libraries under two paths.
        let found = run_for_stdout(program("dpkg").args(["-S", &format!("*/{library}")]))?;
        let found = String::from_utf8(found)?;
        let owner = found.split(':').next().context("no owner")?.to_owned();
        ensure!(
            installed.contains(&owner) || BASE_PACKAGES.contains(&owner.as_str()),
            "{library} is in {owner}, which the image lacks"
        );
        owners.insert(owner);
    }
    ensure!(owners.iter().any(|owner| owner.starts_with("libavcodec")), "{owners:?}");
    // `libnss3-tools` has no library but the `certutil` that `--ca` needs.
    let is_library = |name: &&String| name.starts_with("lib") && !name.ends_with("-tools");
    let unused: Vec<_> = installed.iter().filter(is_library).filter(|name| !owners.contains(*name)).collect();
    ensure!(unused.is_empty(), "nothing links {unused:?}");
    Ok(())
}
