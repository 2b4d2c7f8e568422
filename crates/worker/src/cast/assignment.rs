//! A cast as one machine runs it.

use std::path::{Path, PathBuf};

use pagecast_core::ledger::{FIRST_EPOCH, LedgerRow};
use pagecast_core::{CastSpec, SpecError};
use pagecast_media::record::{FleetStore, SpoolConfig};
use serde::{Deserialize, Serialize};

/// A cast, and what the machine that runs it adds to the description.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    /// Description of the cast, the same on every machine.
    pub spec: CastSpec,
    /// Where this machine keeps files of the cast.
    pub paths: CastPaths,
    /// Epoch of the lease under which the cast runs.
    pub epoch: u64,
    /// Ledger of what earlier owners of the cast recorded.
    #[serde(default)]
    pub earlier: Vec<LedgerRow>,
    /// Store of the fleet, for copies of what is recorded.
    #[serde(default)]
    pub store: Option<FleetStore>,
    /// The recording is over or went on elsewhere: only what is left in the spool is stored.
    #[serde(default)]
    pub is_left: bool,
}

/// Where one machine keeps files of a cast.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CastPaths {
    /// Folder for what is recorded and not stored yet. Unused without a recording.
    pub spool: PathBuf,
    /// File that tells a later process what was stored ([`SpoolConfig::receipt`]).
    #[serde(default)]
    pub receipt: Option<PathBuf>,
    /// Folder for evidence of health faults (screenshots and console messages), created when needed.
    #[serde(default)]
    pub evidence: Option<PathBuf>,
}

impl CastPaths {
    /// Validates that the paths can be sent to the cast's process.
    fn validate(&self) -> Result<(), SpecError> {
        let paths = [Some(&self.spool), self.receipt.as_ref(), self.evidence.as_ref()];
        match paths.into_iter().flatten().find(|path| path.to_str().is_none()) {
            Some(path) => Err(SpecError::Path(path.clone())),
            None => Ok(()),
        }
    }
}

impl Assignment {
    /// Creates the assignment of a cast that has no earlier owners.
    #[must_use]
    pub fn new(spec: CastSpec, paths: CastPaths) -> Self {
        Self { spec, paths, epoch: FIRST_EPOCH, earlier: Vec::new(), store: None, is_left: false }
    }

    /// Validates description and paths.
    ///
    /// # Errors
    /// The first invalid value.
    pub fn validate(&self) -> Result<(), SpecError> {
        self.spec.validate().and_then(|()| self.paths.validate())
    }

    /// Returns the recording and its spool, if the cast is recorded.
    pub(crate) fn spool_config(&self) -> Option<SpoolConfig> {
        Some(SpoolConfig {
            recording: self.spec.recording.clone()?,
            folder: self.paths.spool.clone(),
            receipt: self.paths.receipt.clone(),
            epoch: self.epoch,
            earlier: self.earlier.clone(),
            has_earlier: self.spec.resumed,
            store: self.store.clone(),
        })
    }

    /// Returns whether something is left to do for what was recorded so far. A spool that is not here may be
    /// on another machine: only the receipt tells that everything is stored.
    pub(crate) fn has_unfinished_recording(&self) -> bool {
        let has_receipt = self.paths.receipt.as_deref().is_some_and(Path::exists);
        // Without receipts, as on the command line, a spool that is gone was stored.
        let was_recorded = self.spec.resumed && self.paths.receipt.is_some();
        let is_elsewhere = !self.earlier.is_empty() || was_recorded;
        self.spec.recording.is_some() && (self.paths.spool.exists() || has_receipt || is_elsewhere)
    }
}

#[cfg(test)]
mod tests {
    use pagecast_core::spec::{Recording, Source, SourceUrl, Storage};

    use super::super::{StopToken, UploadReport, finish};
    use super::*;

    /// A recording below this folder whose spool is not there.
    fn assignment(folder: &Path, resumed: bool) -> Assignment {
        let mut spec = CastSpec::new(Source::new(SourceUrl::parse("http://a.example/").unwrap()));
        spec.recording = Some(Recording::new("rec", Storage::Folder(folder.join("out"))));
        spec.resumed = resumed;
        let (spool, receipt) = (folder.join("spool"), Some(folder.join("receipt.json")));
        Assignment { epoch: 2, ..Assignment::new(spec, CastPaths { spool, receipt, evidence: None }) }
    }

    fn finished(assignment: &Assignment) -> Option<UploadReport> {
        finish(assignment, &StopToken::default(), |_| {}).unwrap().recording
    }

    #[test]
    fn a_spool_that_is_not_here_does_not_count_as_stored() {
        let folder = std::env::temp_dir().join(format!("pagecast-assignment-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let never_shown = assignment(&folder, false);
        assert!(!never_shown.has_unfinished_recording() && finished(&never_shown).is_none());
        let shown = assignment(&folder, true);
        assert!(shown.has_unfinished_recording());
        let missing = finished(&shown).unwrap().missing.unwrap();
        assert!(missing.contains("rec_0.mp4 cannot be stored"), "{missing}");
        // The receipt of the last attempt tells the same.
        assert!(!shown.paths.spool.exists() && finished(&shown).unwrap().missing.is_some());
        let stored = UploadReport { location: "out".into(), ..UploadReport::default() };
        std::fs::write(shown.paths.receipt.as_ref().unwrap(), serde_json::to_vec(&stored).unwrap()).unwrap();
        assert_eq!(finished(&shown), Some(stored));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
