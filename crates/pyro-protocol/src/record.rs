//! A VM with a life of its own and its commands, as they are written down for every process of its user.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::client::{Accelerator, RunEnd};
use crate::network::NetworkSpec;

/// What a VM is and where it stands. Its supervisor keeps it up to date.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRecord {
    /// 12 lower-case hex digits.
    pub vm_id: String,
    pub environment: String,
    pub environment_version: String,
    pub vcpu_count: u8,
    pub memory_mib: u32,
    /// Since the epoch.
    pub created_at: Duration,
    pub time_to_live: Duration,
    pub state: VmState,
    pub allow_host_compat: bool,
    /// Whatever whoever made it wants to find again.
    pub metadata: BTreeMap<String, String>,
    pub accelerator: Accelerator,
    /// `None` for a VM without a network.
    pub network: Option<NetworkSpec>,
}

/// A machine that was restored ahead and stands still, as its supervisor describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpareRecord {
    /// 12 lower-case hex digits.
    pub id: String,
    pub environment: String,
    pub vcpu_count: u8,
    pub memory_mib: u32,
    pub has_network: bool,
    pub accelerator: Accelerator,
    /// Since the epoch.
    pub created_at: Duration,
    /// Until it is given up, if nobody claims it.
    pub time_left: Duration,
    /// What its QEMU has in memory for itself; what it shares with other VMs comes on top, once for all.
    pub private_bytes: u64,
}

/// A command of a VM with a life of its own, as it is written down beside what it wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The VM's own number for it.
    pub number: u32,
    pub command: String,
    /// Since the epoch.
    pub started_at: Duration,
    pub fate: RunFate,
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunFate {
    Running,
    Ended {
        end: RunEnd,
        /// Everything it wrote, kept or not.
        stdout_bytes: u64,
        stderr_bytes: u64,
    },
    /// It has no exit status, because it never started, or its machine went before its end.
    Failed {
        reason: String,
    },
}

/// Where a VM stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VmState {
    /// Everything is prepared, no machine ran yet.
    Created,
    /// It takes commands.
    Started,
    /// No machine runs. What its commands wrote is on its disk.
    Stopped,
}

impl VmState {
    /// As in payloads and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Started => "started",
            Self::Stopped => "stopped",
        }
    }
}
