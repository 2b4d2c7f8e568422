//! The house rules that no compiler checks.
#![expect(clippy::unwrap_used, reason = "a panic fails the test, with the place")]

#[path = "tidy/source.rs"]
mod source;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// All our crates but testkit and bench.
const PRODUCT_CRATES: &[&str] = &[
    "pagecast",
    "pagecast-core",
    "pagecast-egress",
    "pagecast-page",
    "pagecast-media",
    "pagecast-listen",
    "pagecast-room",
    "pagecast-fleet",
    "pagecast-server",
    "pagecast-worker",
];

/// What the root package must not use itself, though its crates do: it wires them and has no logic.
const ROOT_DIRECT_FORBIDDEN: &[&str] =
    &["smithay", "pulseaudio", "ffmpeg-the-third", "str0m", "axum", "hyper", "rusqlite", "object_store"];

/// What a crate must never link, directly or through others: the last column of "Crates" in ARCHITECTURE.md.
const FORBIDDEN_DEPENDENCIES: &[(&str, &[&str])] = &[
    ("pagecast-core", &["tokio", "rustix", "smithay", "ffmpeg-the-third", "pagecast-page", "pagecast-media"]),
    (
        "pagecast-egress",
        &[
            "rustix",
            "smithay",
            "ffmpeg-the-third",
            "axum",
            "pagecast-page",
            "pagecast-media",
            "pagecast-server",
        ],
    ),
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
    (
        "pagecast-listen",
        &[
            "pagecast-core",
            "pagecast-page",
            "pagecast-media",
            "pagecast-room",
            "pagecast-fleet",
            "pagecast-server",
        ],
    ),
    ("pagecast-testkit", PRODUCT_CRATES),
    // The bench compares the fleet's backends.
    (
        "pagecast-bench",
        &[
            "pagecast-page",
            "pagecast-media",
            "pagecast-listen",
            "pagecast-room",
            "pagecast-worker",
            "pagecast-server",
        ],
    ),
];

fn workspace_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn cargo_output(args: &[&str]) -> Vec<u8> {
    #[expect(clippy::disallowed_methods, reason = "cargo runs to its end here")]
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

/// Names of all packages that are ever built. The lock file, and so `cargo metadata`, has more: dependencies
/// of features that are off.
fn built_packages() -> BTreeSet<String> {
    let tree = cargo_output(&["tree", "--workspace", "--edges", "normal,build,dev", "--prefix", "none"]);
    String::from_utf8(tree).unwrap().lines().filter_map(|l| l.split(' ').next()).map(str::to_owned).collect()
}

/// All files of the repository with this suffix, whether git knows them or not: an export has no git.
fn files_with_suffix(suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![workspace_root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if entry.file_type().unwrap().is_dir() {
                if !["target", ".git", "node_modules", "corpus"].contains(&name.as_str()) {
                    folders.push(path);
                }
            } else if name.ends_with(suffix) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Panics with all violations that `check` finds in the Rust files; its second argument is the path from the
/// root of the repository.
fn check_rust_files(check: impl Fn(&str, &Path) -> Vec<String>) {
    let mut violations = Vec::new();
    for path in files_with_suffix(".rs") {
        let text = fs::read_to_string(&path).unwrap();
        let name = path.strip_prefix(workspace_root()).unwrap();
        violations.extend(check(&text, name).into_iter().map(|found| format!("{}:{found}", name.display())));
    }
    assert!(violations.is_empty(), "{} violations:\n{}", violations.len(), violations.join("\n"));
}

/// Whether a file has nothing but tests: `tests/…`, `…/tests.rs`, `…_tests.rs`.
fn is_test_file(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests")
        || path.file_stem().is_some_and(|stem| stem.to_string_lossy().ends_with("tests"))
}

#[test]
fn files_are_short() {
    check_rust_files(|text, path| source::length_violations(text, is_test_file(path)));
}

#[test]
fn files_are_named_by_role() {
    for path in files_with_suffix(".rs") {
        assert_ne!(path.file_name().unwrap(), "mod.rs", "{}: write name.rs beside name/", path.display());
        let name = path.file_stem().unwrap().to_string_lossy();
        let banned: Vec<_> = source::banned_words(&name).collect();
        assert!(banned.is_empty(), "{}: {banned:?}", path.display());
    }
}

#[test]
fn lines_fit_in_110_columns() {
    check_rust_files(|text, _| source::width_violations(text));
}

#[test]
fn doc_comments_are_sentences() {
    check_rust_files(|text, _| source::doc_violations(text));
}

#[test]
fn names_are_terms_of_the_field() {
    check_rust_files(|text, _| source::name_violations(text));
}

/// A forbidden package among those that `owner` reaches by `links`.
fn forbidden_link(owner: &str, never: &[&str], links: impl Fn(&str) -> Vec<String>) -> Option<String> {
    let mut seen = BTreeSet::new();
    let mut queue = links(owner);
    while let Some(name) = queue.pop() {
        if never.contains(&name.as_str()) {
            return Some(name);
        }
        if seen.insert(name.clone()) {
            queue.extend(links(&name));
        }
    }
    None
}

#[test]
fn forbidden_links_are_found_through_others() {
    let links = |name: &str| match name {
        "a" => vec!["b".to_owned()],
        "b" => vec!["a".to_owned(), "c".to_owned()],
        _ => Vec::new(),
    };
    assert_eq!(forbidden_link("a", &["d", "c"], links).as_deref(), Some("c"));
    assert_eq!(forbidden_link("a", &["d"], links), None);
}

#[test]
fn crates_do_not_reach_forbidden_dependencies() {
    let metadata = cargo_metadata();
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let name_of = |id: &Value| packages.iter().find(|p| p["id"] == *id).unwrap()["name"].as_str().unwrap();
    // Names of the packages that a package links, without those for tests and build scripts. Two versions of
    // a package are one name, which can only find more.
    let links = |name: &str| -> Vec<String> {
        let is_normal =
            |dep: &&Value| dep["dep_kinds"].as_array().unwrap().iter().any(|k| k["kind"].is_null());
        let of = nodes.iter().filter(|node| name_of(&node["id"]) == name);
        let deps = of.flat_map(|node| node["deps"].as_array().unwrap()).filter(is_normal);
        deps.map(|dep| name_of(&dep["pkg"]).to_owned()).collect()
    };
    for (owner, never) in FORBIDDEN_DEPENDENCIES {
        assert!(!links(owner).is_empty(), "there is no package {owner}");
        let found = forbidden_link(owner, never, links);
        assert!(found.is_none(), "{owner} must not reach {found:?}");
    }
    let direct = links("pagecast");
    let found: Vec<_> =
        ROOT_DIRECT_FORBIDDEN.iter().filter(|name| direct.iter().any(|d| d == **name)).collect();
    assert!(found.is_empty(), "the root package has no logic, so it must not use {found:?}");
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
        "`cargo tree` printed something else: {built:?}"
    );
    let found: Vec<_> = built.intersection(&banned).collect();
    assert!(found.is_empty(), "{found:?} are banned by deny.toml");
    for package in cargo_metadata()["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        let license = package["license"].as_str().unwrap_or_default().replace('/', " OR ");
        // Every part of an AND must be allowed, and one part of an OR.
        let is_allowed = license
            .split(" AND ")
            .all(|part| part.split(" OR ").any(|l| allowed.contains(l.trim_matches(['(', ')', ' ']))));
        assert!(is_allowed, "the licence of {name}, {license:?}, is not in deny.toml");
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
