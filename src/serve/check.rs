//! Opens pages for dry runs of the REST API, each in a process of its own.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use pagecast_core::CastSpec;
use pagecast_core::dry_run::DryRunReport;
use pagecast_server::PageChecker;
use pagecast_worker::node;
use pagecast_worker::process::Process;
use tokio::sync::oneshot;

/// Opens pages with the program that also runs the casts of this node.
#[derive(Debug)]
struct ProcessPageChecker {
    program: PathBuf,
}

/// Opens pages on a node that runs casts.
pub(super) fn page_checker(node: &node::Config) -> Option<Arc<dyn PageChecker>> {
    node.runs_casts.then(|| Arc::new(ProcessPageChecker { program: node.program.clone() }) as _)
}

#[async_trait]
impl PageChecker for ProcessPageChecker {
    async fn check(&self, spec: CastSpec) -> io::Result<DryRunReport> {
        let (sender, report) = oneshot::channel();
        let program = self.program.clone();
        // A thread of its own: the service does not wait for it at its end, which ends the process, too.
        std::thread::Builder::new().name("check".into()).spawn(move || {
            let started = Process::start_with_log(&program).map_err(io::Error::other);
            // Fails if the service is shutting down.
            let _gone = sender.send(started.map(|process| process.dry_run(&spec).report));
        })?;
        report.await.map_err(io::Error::other)?
    }
}
