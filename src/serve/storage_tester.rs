//! Tests of storages, as the REST API asks for them: by the code that stores recordings.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pagecast_core::spec::Storage;
use pagecast_fleet::vault::random_u64;
use pagecast_media::store::{Error, Store, TransferConfig};
use pagecast_server::{StorageTestStep, StorageTester};
use tokio::time::timeout;

/// Longest time of a step. Whoever asked waits for it.
const STEP_TIMEOUT: Duration = Duration::from_secs(15);
/// Largest object that is read back, in bytes: somewhat more than [`CONTENT`].
const MAX_READ_BYTES: usize = 4096;
/// Content of the object.
const CONTENT: &[u8] = b"Pagecast wrote this to test its storage. It can be deleted.\n";

/// Tests storages on this machine.
#[derive(Debug)]
pub(super) struct RecordingStorageTester {
    /// Folder to which folders of recordings are relative.
    pub(super) data: PathBuf,
}

/// Runs one step, and adds what came of it. Returns whether it succeeded.
async fn run_step(
    steps: &mut Vec<StorageTestStep>,
    step: &'static str,
    work: impl Future<Output = Result<(), String>>,
) -> bool {
    let began = Instant::now();
    let result = timeout(STEP_TIMEOUT, work).await;
    let result = result.unwrap_or_else(|_| Err(format!("it took more than {} s", STEP_TIMEOUT.as_secs())));
    let is_ok = result.is_ok();
    steps.push(StorageTestStep { step, error: result.err(), duration: began.elapsed() });
    is_ok
}

fn in_words(error: Error) -> String {
    pagecast_media::chain(&error)
}

#[async_trait]
impl StorageTester for RecordingStorageTester {
    async fn test(&self, storage: &Storage) -> Vec<StorageTestStep> {
        let mut storage = storage.clone();
        if let Storage::Folder(path) = &mut storage {
            *path = self.data.join(&path);
        }
        let transfer = TransferConfig { stall_timeout: STEP_TIMEOUT, ..TransferConfig::default() };
        let (mut steps, began) = (Vec::new(), Instant::now());
        let store = match Store::open_with(&storage, transfer) {
            Ok(store) => store,
            Err(error) => {
                let error = Some(in_words(error));
                steps.push(StorageTestStep { step: "write", error, duration: began.elapsed() });
                return steps;
            }
        };
        let name = format!("pagecast-test-{:016x}.txt", random_u64());
        let write = async {
            let put = store.put_bytes(&name, CONTENT.into(), "text/plain", None).await;
            put.map(drop).map_err(in_words)
        };
        let is_written = run_step(&mut steps, "write", write).await;
        if is_written {
            let read = async {
                match store.get(&name, MAX_READ_BYTES).await {
                    Ok(Some(content)) if content == CONTENT => Ok(()),
                    Ok(Some(_)) => Err("the object has another content than was written".to_owned()),
                    Ok(None) => Err("the object is not there".to_owned()),
                    Err(error) => Err(in_words(error)),
                }
            };
            run_step(&mut steps, "read", read).await;
        }
        // A write that failed may have had an effect.
        let remove = async { store.delete(&name).await.map_err(in_words) };
        let mut removed = Vec::new();
        run_step(&mut removed, "remove", remove).await;
        if is_written {
            steps.append(&mut removed);
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use pagecast_testkit::ScratchDir;

    use super::*;

    #[tokio::test]
    async fn a_folder_is_tested_and_left_as_it_was() {
        let scratch = ScratchDir::new().unwrap();
        let tester = RecordingStorageTester { data: scratch.path().to_owned() };
        std::fs::create_dir(scratch.join("recordings")).unwrap();
        let steps = tester.test(&Storage::Folder("recordings".into())).await;
        let names: Vec<_> = steps.iter().map(|step| (step.step, step.error.as_deref())).collect();
        assert_eq!(names, [("write", None), ("read", None), ("remove", None)]);
        assert_eq!(std::fs::read_dir(scratch.join("recordings")).unwrap().count(), 0);
        std::fs::write(scratch.join("file"), "").unwrap();
        let failed = tester.test(&Storage::Folder("file".into())).await;
        assert!(matches!(&failed[..], [StorageTestStep { step: "write", error: Some(_), .. }]), "{failed:?}");
    }
}
