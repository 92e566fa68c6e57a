//! The tools there are: their names, what they are for, and what clients may expect of them.

use pyro_core::{ErrorKind, PyroError};
use rmcp::model::ToolAnnotations;

use crate::pins::Pins;
use crate::schema;

/// How many tools a server shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// One-shot runs, and the environments there are for them.
    Run,
    /// Everything.
    Full,
}

/// One tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    Run,
    ListEnvironments,
    List,
    Create,
    Start,
    Exec,
    Logs,
    Status,
    NetworkInfo,
    Stop,
    Delete,
    ReapExpired,
}

impl Tool {
    /// In the order in which they are shown: what is needed most first.
    pub(crate) const ALL: [Self; 12] = [
        Self::Run,
        Self::ListEnvironments,
        Self::List,
        Self::Create,
        Self::Start,
        Self::Exec,
        Self::Logs,
        Self::Status,
        Self::NetworkInfo,
        Self::Stop,
        Self::Delete,
        Self::ReapExpired,
    ];

    /// Those of a profile.
    pub(crate) fn of(profile: Profile) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |tool| match profile {
            Profile::Run => matches!(tool, Self::Run | Self::ListEnvironments),
            Profile::Full => true,
        })
    }

    /// Finds the one of `profile` that is called `name`.
    pub(crate) fn find(profile: Profile, name: &str) -> Result<Self, PyroError> {
        Self::of(profile).find(|tool| tool.name() == name).ok_or_else(|| {
            let names: Vec<_> = Self::of(profile).map(Self::name).collect();
            let message = format!("unknown tool '{name}'; expected one of: {}", names.join(", "));
            PyroError::new(ErrorKind::InvalidInput, message)
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Run => "vm_run",
            Self::ListEnvironments => "vm_list_environments",
            Self::List => "vm_list",
            Self::Create => "vm_create",
            Self::Start => "vm_start",
            Self::Exec => "vm_exec",
            Self::Logs => "vm_logs",
            Self::Status => "vm_status",
            Self::NetworkInfo => "vm_network_info",
            Self::Stop => "vm_stop",
            Self::Delete => "vm_delete",
            Self::ReapExpired => "vm_reap_expired",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Run => "Run a command in a fresh VM",
            Self::ListEnvironments => "List environments",
            Self::List => "List VMs",
            Self::Create => "Create a VM",
            Self::Start => "Start a VM",
            Self::Exec => "Run a command in a VM",
            Self::Logs => "Read what a command wrote",
            Self::Status => "Show a VM",
            Self::NetworkInfo => "Show a VM's network",
            Self::Stop => "Stop a VM",
            Self::Delete => "Delete a VM",
            Self::ReapExpired => "Delete expired VMs",
        }
    }

    fn description(self) -> &'static str {
        match self {
            Self::Run => {
                "Run a shell command as root in a fresh, disposable Linux VM. Nothing it writes is kept. A non-zero exit \
                 code is a result, not an error. The first use of an environment can take minutes."
            }
            Self::ListEnvironments => "The environments VMs can be made of, and what is in them.",
            Self::List => "The VMs there are.",
            Self::Create => {
                "Make a VM that several commands share. Then: vm_start, vm_exec as often as needed, vm_delete."
            }
            Self::Start => "Start a VM that was created or stopped.",
            Self::Exec => {
                "Run a shell command as root in a started VM. The VM and its files stay for the next command."
            }
            Self::Logs => {
                "All that an earlier vm_exec wrote, piece by piece, until the VM is deleted."
            }
            Self::Status => "A VM's state and when it expires.",
            Self::NetworkInfo => "Whether and how a VM reaches the network.",
            Self::Stop => {
                "End a VM's machine and its commands; its files are kept for the next vm_start."
            }
            Self::Delete => "End a VM for good, with its files.",
            Self::ReapExpired => "Remove what expired VMs left, if anything. Rarely needed.",
        }
    }

    fn annotations(self) -> ToolAnnotations {
        // What a VM does stays in it, unless it has a network.
        let annotations =
            ToolAnnotations::with_title(self.title()).destructive(false).open_world(false);
        match self {
            Self::Run => annotations.read_only(false).idempotent(false).open_world(true),
            Self::Create | Self::Start => annotations.read_only(false).idempotent(false),
            Self::List | Self::ListEnvironments | Self::Logs | Self::Status | Self::NetworkInfo => {
                annotations.read_only(true)
            }
            Self::Exec => {
                annotations.read_only(false).destructive(true).idempotent(false).open_world(true)
            }
            Self::Stop | Self::Delete => {
                annotations.read_only(false).destructive(true).idempotent(true)
            }
            Self::ReapExpired => annotations.read_only(false).idempotent(true),
        }
    }

    /// The tool as clients see it.
    pub(crate) fn definition(self, pins: &Pins) -> rmcp::model::Tool {
        rmcp::model::Tool::new(self.name(), self.description(), schema::input(self, pins))
            .with_raw_output_schema(schema::output(self))
            .with_annotations(self.annotations())
    }
}
