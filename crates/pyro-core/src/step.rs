//! The steps of long work, in words that every surface shows.

use crate::Progress;
use pyro_environments::{Artefact, PullProgress};
use pyro_protocol::client::LaunchPhase;

/// One step, ready to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub text: String,
    pub measure: Measure,
}

/// How far a step is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Measure {
    Unknown,
    Bytes { done: u64, total: u64 },
    Count { done: u64, total: u64, detail: String },
    Growing { bytes: u64 },
}

impl Step {
    /// A step of a pull.
    pub fn of_pull(progress: &PullProgress) -> Self {
        let (text, measure) = match progress {
            PullProgress::Waiting { artefact, holder_pid } => {
                let holder = holder_pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
                let what = artefact_text(*artefact);
                let text = format!("waiting for another pyro that prepares {what}{holder}");
                (text, Measure::Unknown)
            }
            PullProgress::Verifying => ("verifying what is installed".to_owned(), Measure::Unknown),
            PullProgress::UpdatingPackageLists { artefact } => (
                format!("{}: reading signed package lists", artefact_text(*artefact)),
                Measure::Unknown,
            ),
            PullProgress::Downloading { artefact, bytes_done, bytes_total } => (
                format!("{}: downloading", artefact_text(*artefact)),
                Measure::Bytes { done: *bytes_done, total: *bytes_total },
            ),
            PullProgress::Unpacking => {
                ("root filesystem: unpacking packages".to_owned(), Measure::Unknown)
            }
            PullProgress::Installing { packages_done, packages_total, package } => (
                "root filesystem: installing packages".to_owned(),
                Measure::Count {
                    done: (*packages_done).into(),
                    total: (*packages_total).into(),
                    detail: package.clone(),
                },
            ),
            PullProgress::UnpackingKernel => ("kernel: unpacking".to_owned(), Measure::Unknown),
            PullProgress::WritingImage { bytes } => (
                "root filesystem: writing the image".to_owned(),
                Measure::Growing { bytes: *bytes },
            ),
            PullProgress::Publishing { artefact } => (
                format!("{}: verifying and publishing", artefact_text(*artefact)),
                Measure::Unknown,
            ),
        };
        Self { text, measure }
    }

    /// What is being done, where that is long work.
    pub(crate) fn text_of(progress: &Progress) -> Option<String> {
        match progress {
            Progress::Pull(step) => Some(Self::of_pull(step).text),
            Progress::Launch(phase) => Some(Self::of_launch(*phase).text),
            Progress::SpareFailed { .. }
            | Progress::VmReady { .. }
            | Progress::HostCompat { .. } => None,
        }
    }

    /// A step of a VM's start.
    pub fn of_launch(phase: LaunchPhase) -> Self {
        Self { text: launch_text(phase).to_owned(), measure: Measure::Unknown }
    }
}

fn artefact_text(artefact: Artefact) -> &'static str {
    match artefact {
        Artefact::Kernel => "kernel",
        Artefact::RootFilesystem => "root filesystem",
    }
}

fn launch_text(phase: LaunchPhase) -> &'static str {
    match phase {
        LaunchPhase::WaitingForTemplate => "waiting for another pyro that makes the template",
        LaunchPhase::BootingTemplate => "first use on this host: booting a template",
        LaunchPhase::WarmingTemplate => "first use on this host: warming the template up",
        LaunchPhase::FreezingTemplate => "first use on this host: freezing the template",
        LaunchPhase::Restoring => "restoring a VM",
        LaunchPhase::Booting => "booting a VM",
        LaunchPhase::Configuring => "configuring the VM",
        LaunchPhase::WarmingSpare => "warming a spare up",
        LaunchPhase::ResumingSpare => "resuming a spare",
    }
}
