//! The house rules that no compiler checks.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Lines of a source file, tests aside.
const MAX_LINES: usize = 800;

/// What a crate must never reach, directly or through others: see ARCHITECTURE.md.
const FORBIDDEN_DEPENDENCIES: &[(&str, &[&str])] = &[
    ("pagecast-core", &["tokio", "rustix", "smithay", "ffmpeg-the-third", "pagecast-page", "pagecast-media"]),
    ("pagecast-page", &["ffmpeg-the-third", "axum", "pagecast-media", "pagecast-worker"]),
    ("pagecast-media", &["smithay", "pulseaudio", "axum", "pagecast-page", "pagecast-worker"]),
    (
        "pagecast-room",
        &["smithay", "pulseaudio", "ffmpeg-the-third", "pagecast-page", "pagecast-media", "pagecast-worker"],
    ),
    ("pagecast-worker", &["clap", "pagecast-server"]),
    (
        "pagecast-fleet",
        &[
            "smithay",
            "pulseaudio",
            "ffmpeg-the-third",
            "str0m",
            "axum",
            "pagecast-page",
            "pagecast-media",
            "pagecast-room",
        ],
    ),
    (
        "pagecast-server",
        &["smithay", "pulseaudio", "ffmpeg-the-third", "pagecast-page", "pagecast-media", "pagecast-worker"],
    ),
];

fn workspace_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn cargo_output(args: &[&str]) -> Vec<u8> {
    #[expect(clippy::disallowed_methods, reason = "cargo is asked once and waited for")]
    let output = std::process::Command::new(env!("CARGO"))
        .args(args)
        .args(["--locked", "--offline"])
        .current_dir(workspace_root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn cargo_metadata() -> Value {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let json = cargo_output(&["metadata", "--format-version", "1", "--filter-platform", &platform]);
    serde_json::from_slice(&json).unwrap()
}

/// Names of all packages that are ever built. The lock file, and so `cargo metadata`, has more: what a dependency would take if
/// another feature of it were on.
fn built_packages() -> BTreeSet<String> {
    let tree = cargo_output(&["tree", "--workspace", "--edges", "normal,build,dev", "--prefix", "none"]);
    String::from_utf8(tree).unwrap().lines().filter_map(|l| l.split(' ').next()).map(str::to_owned).collect()
}

/// Our files with this ending, as git knows them; in an export without git, all.
fn files_with_suffix(ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![workspace_root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if entry.file_type().unwrap().is_dir() {
                if !["target", ".git", "node_modules", "corpus"].contains(&name.as_str()) {
                    folders.push(path);
                }
            } else if name.ends_with(ending) {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn files_are_short_and_named_by_role() {
    for path in files_with_suffix(".rs") {
        assert_ne!(path.file_name().unwrap(), "mod.rs", "{}: write name.rs beside name/", path.display());
        let text = fs::read_to_string(&path).unwrap();
        let lines = text.lines().take_while(|l| !l.starts_with("#[cfg(test)]")).count();
        assert!(lines <= MAX_LINES, "{} has {lines} lines, split it", path.display());
    }
}

#[test]
fn crates_do_not_reach_forbidden_dependencies() {
    let metadata = cargo_metadata();
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let name_of = |id: &str| {
        let package = metadata["packages"].as_array().unwrap().iter().find(|p| p["id"] == id).unwrap();
        package["name"].as_str().unwrap().to_owned()
    };
    // What a package links, tests and build scripts aside.
    let links = |id: &str| -> Vec<String> {
        let node = nodes.iter().find(|n| n["id"] == id).unwrap();
        let deps = node["deps"].as_array().unwrap().iter();
        let normal = |d: &&Value| d["dep_kinds"].as_array().unwrap().iter().any(|k| k["kind"].is_null());
        deps.filter(normal).map(|d| d["pkg"].as_str().unwrap().to_owned()).collect()
    };
    for (owner, never) in FORBIDDEN_DEPENDENCIES {
        let start = nodes.iter().map(|n| n["id"].as_str().unwrap()).find(|id| name_of(id) == *owner).unwrap();
        let mut seen = BTreeSet::new();
        let mut queue = vec![start.to_owned()];
        while let Some(id) = queue.pop() {
            if seen.insert(id.clone()) {
                queue.extend(links(&id));
            }
        }
        for id in seen {
            assert!(!never.contains(&name_of(&id).as_str()), "{owner} must not reach {}", name_of(&id));
        }
    }
}

#[test]
fn dependencies_are_allowed() {
    let rules: toml::Table = fs::read_to_string(workspace_root().join("deny.toml")).unwrap().parse().unwrap();
    let list = |table: &str, key: &str| -> BTreeSet<String> {
        let list = rules[table][key].as_array().unwrap().iter();
        list.map(|v| v.as_str().unwrap().to_owned()).collect()
    };
    let (allowed, banned) = (list("licenses", "allow"), list("bans", "deny"));
    let built = built_packages();
    assert!(
        built.contains("pagecast-core") && built.contains("proptest"),
        "the tree is not understood: {built:?}"
    );
    let found: Vec<_> = built.intersection(&banned).collect();
    assert!(found.is_empty(), "{found:?} are banned by deny.toml");
    for package in cargo_metadata()["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        let license = package["license"].as_str().unwrap_or_default().replace('/', " OR ");
        // All parts joined by AND, any of those joined by OR.
        let good = license
            .split(" AND ")
            .all(|part| part.split(" OR ").any(|l| allowed.contains(l.trim_matches(['(', ')', ' ']))));
        assert!(good, "the licence of {name}, {license:?}, is not in deny.toml");
    }
}

#[test]
fn documents_name_files_that_exist() {
    for path in files_with_suffix(".md") {
        let text = fs::read_to_string(&path).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            assert!(path.parent().unwrap().join(target).exists(), "{} links to {target}", path.display());
        }
    }
}
