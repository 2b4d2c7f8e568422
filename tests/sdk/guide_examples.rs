//! Runs the examples of `docs/guides/sdks.md` unchanged, except for the addresses of service and page.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::command::{program, run_for_output};
use pagecast_testkit::service::{ACCESS_KEY, APP_ID};
use pagecast_testkit::{MachineLock, PageServer, ScratchDir, ServiceConfig, ServiceProcess};

use crate::client::install_sdks;

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
/// Number of programs in the guide. Shell commands are not run: they are for other machines, or install
/// packages too large for a test.
const EXAMPLE_COUNT: usize = 11;

#[test]
fn the_examples_of_the_guide_work() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let (pages, service) =
        (PageServer::start()?, ServiceProcess::start(PAGECAST, &ServiceConfig::default())?);
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/guides/sdks.md");
    let guide = fs::read_to_string(&guide)?;
    let examples = guide.split("\n```").skip(1).step_by(2).map(|example| example.split_once('\n'));
    let mut programs: Vec<_> = examples.collect::<Option<_>>().context("an empty example")?;
    programs.retain(|(language, _)| *language != "sh");
    ensure!(programs.len() == EXAMPLE_COUNT, "{} programs", programs.len());
    for (language, code) in programs {
        let code = code.replace("127.0.0.1:8080", &service.host());
        let code = code.replace("https://example.com", &pages.url("counter.html"));
        let code = code.replace("\"demo\"", &format!("\"{APP_ID}\""));
        // In Java, JSON is in string literals.
        let code = code.replace("\\\"demo\\\"", &format!("\\\"{APP_ID}\\\""));
        let Some(stdout) = run_program(language, &code, &[])? else { continue };
        ensure!(
            stdout.contains("ok") || stdout.contains("TaskId") || stdout.contains("RequestId"),
            "{code}: {stdout}"
        );
        ensure!(!stdout.contains("Error"), "{code}: {stdout}");
    }
    Ok(())
}

/// Runs a program with the SDKs, its keys and these variables in the environment, and returns its output.
/// `None` if its language is not installed.
pub(crate) fn run_program(language: &str, code: &str, variables: &[(&str, &str)]) -> Result<Option<String>> {
    let (sources, installed) = install_sdks()?;
    let folder = ScratchDir::new()?;
    let file = |name: &str| fs::write(folder.join(name), code).map(|()| folder.join(name));
    let mut command = match language {
        "python" => {
            let mut python = program(installed.join("python/bin/python3"));
            python.arg(file("example.py")?);
            python
        }
        "javascript" => {
            std::os::unix::fs::symlink(installed.join("node/node_modules"), folder.join("node_modules"))?;
            let mut node = program("node");
            node.arg(file("example.js")?);
            node
        }
        // Other tests report that Go is missing.
        "go" if !installed.join("go/built").exists() => return Ok(None),
        "go" => {
            for name in ["go.mod", "go.sum"] {
                fs::copy(sources.join("go").join(name), folder.join(name))?;
            }
            file("main.go")?;
            let mut go = program("go");
            go.args(["run", "."]).env("CGO_ENABLED", "0");
            go
        }
        "java" => {
            let Ok(classpath) = fs::read_to_string(installed.join("java/classpath")) else {
                pagecast_testkit::skip("an example in Java needs a JDK, Maven and its packages");
                return Ok(None);
            };
            let mut java = program("java");
            java.arg("-cp").arg(classpath.trim()).arg(file("Example.java")?);
            java
        }
        "sh" => {
            let mut shell = program("sh");
            shell.arg(file("example.sh")?);
            shell
        }
        other => anyhow::bail!("an example in an unknown language, {other}"),
    };
    command.current_dir(folder.path()).env("ACCESS_KEY", ACCESS_KEY.0).env("SECRET_KEY", ACCESS_KEY.1);
    for name in ["VOLC_ACCESSKEY", "VOLC_SECRETKEY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied());
    let output = run_for_output(&mut command).with_context(|| format!("{language}: {code}"))?;
    Ok(Some(String::from_utf8(output.stdout)?))
}
