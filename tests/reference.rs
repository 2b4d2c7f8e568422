//! Checks that generated reference pages are current. `UPDATE=1 cargo test --test reference` writes them.
#![expect(clippy::unwrap_used, reason = "a panic fails the test, with the place")]

use std::fs;
use std::path::Path;

fn help_text(args: &[&str]) -> String {
    #[expect(clippy::disallowed_methods, reason = "the program runs to its end here")]
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_pagecast"))
        .args(args)
        .env("COLUMNS", "110")
        .output()
        .unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_command_line() {
    let mut page = String::from("# Command line\n\nGenerated from the program's own help.\n");
    let commands = [
        "serve", "call", "nodes", "casts", "check", "console", "record", "cast", "recover", "demo", "doctor",
    ];
    for command in commands {
        page += &format!("\n## pagecast {command}\n\n```text\n{}```\n", help_text(&[command, "--help"]));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/cli.md");
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &page).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(written, page, "{} is not current: UPDATE=1 cargo test --test reference", path.display());
}
