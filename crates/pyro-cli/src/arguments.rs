//! The command line.

use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::demo_arguments::DemoArguments;
use crate::mcp_arguments::McpCommand;
use crate::network_arguments::NetworkArguments;

/// What a whole `pyro run` looks like.
pub(crate) const RUN_EXAMPLE: &str = "pyro run debian:12 -- git --version";

/// What a whole `pyro vm exec` looks like.
pub(crate) const EXEC_EXAMPLE: &str = "pyro vm exec ID -- git --version";

/// Disposable Linux machines for code you do not trust
#[derive(Debug, Parser)]
#[command(name = "pyro", version, max_term_width = 100, disable_help_subcommand = true)]
#[command(after_help = "\
Examples:
  pyro run debian:12 -- git --version
  echo 'print(6 * 7)' | pyro run debian:12 -- python3 -
  id=$(pyro vm create --start debian:12) && pyro vm exec $id -- uname -r
  pyro env pull debian:12-build
  pyro demo
  pyro doctor")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a command in a fresh VM, which is gone afterwards
    Run(Box<RunArguments>),
    /// Use VMs that several commands share, from any process of this user
    #[command(subcommand)]
    Vm(VmCommand),
    /// Keep VMs ready for a while, so that commands in fresh ones start at once
    Warm(WarmArguments),
    /// Look at, fetch and delete environments
    #[command(subcommand, name = "env")]
    Environment(EnvironmentCommand),
    /// Serve VMs to agents as tools of the Model Context Protocol
    #[command(subcommand)]
    Mcp(McpCommand),
    /// Show what a VM is by making one, or have a model run a command in one
    Demo(Box<DemoArguments>),
    /// Check whether this host can run VMs
    #[command(after_help = "\
Exit codes: 0 where VMs can run, 1 where they cannot.

Examples:
  pyro doctor
  pyro doctor --fix
  pyro doctor --json | jq '.checks[] | select(.status != \"pass\")'")]
    Doctor {
        /// First remove what killed processes have left and templates that no environment can use, and make
        /// directories that are missing; nothing that needs root, and nothing that is in use
        #[arg(long)]
        fix: bool,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Print a completion script for a shell
    #[command(after_help = "\
Examples:
  pyro completions bash > ~/.local/share/bash-completion/completions/pyro
  pyro completions zsh  > ~/.zfunc/_pyro
  pyro completions fish > ~/.config/fish/completions/pyro.fish")]
    Completions { shell: Shell },
}

#[derive(Debug, Args)]
#[command(after_help = "\
The command's output is streamed as it comes, its standard input is this one's.

Exit codes: the command's own; 124 if it ran out of time; 128 + N if signal N killed it; \
125 if pyro itself could not run it.")]
pub(crate) struct RunArguments {
    /// The environment, for instance `debian:12`; see `pyro env list`
    pub(crate) environment: String,
    #[command(flatten)]
    pub(crate) vm: VmArguments,
    #[command(flatten)]
    pub(crate) command: CommandArguments,
    /// Run the command on this host, WITHOUT any boundary, if no VM can be had
    #[arg(long)]
    pub(crate) allow_host_compat: bool,
    #[command(flatten)]
    pub(crate) archive: ArchiveArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
    /// The command and its arguments, after `--`
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) words: Vec<String>,
    // At the end, because its heading holds for whatever follows.
    #[command(flatten)]
    pub(crate) network: NetworkArguments,
}

/// What a VM gets.
#[derive(Debug, Args)]
pub(crate) struct VmArguments {
    /// Virtual CPUs (1 to 8)
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true, value_parser = whole_number)]
    pub(crate) vcpu_count: i64,
    /// Memory in MiB (256 to 32768)
    #[arg(long, value_name = "MIB", default_value_t = 1024, allow_negative_numbers = true, value_parser = whole_number)]
    pub(crate) mem_mib: i64,
    /// Destroy the VM after this many seconds, whatever it does (60 to 3600)
    #[arg(long, value_name = "SECONDS", default_value_t = 600, allow_negative_numbers = true, value_parser = whole_number)]
    pub(crate) ttl_seconds: i64,
}

/// How a command is run.
#[derive(Debug, Clone, Args)]
pub(crate) struct CommandArguments {
    /// End the command after this many seconds [default: 30; none with --tty]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = number)]
    pub(crate) timeout_seconds: Option<f64>,
    /// Set an environment variable of the command; may be given several times
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = key_and_value)]
    pub(crate) env: Vec<(String, String)>,
    /// Start the command in this directory of the guest [default: /root]
    #[arg(long, short = 'w', visible_alias = "workdir", value_name = "PATH")]
    pub(crate) cwd: Option<String>,
    /// Give the command a terminal, for shells and other programs that people talk to; Enter, `~`, `.`
    /// is the way out of one that does not react
    #[arg(long, short, conflicts_with = "json")]
    pub(crate) tty: bool,
    /// Keep standard input open: it always is, so this is only for fingers that type `-it`
    #[arg(long, short)]
    pub(crate) interactive: bool,
}

#[derive(Debug, Subcommand)]
#[command(after_help = "\
A VM lives until it is deleted or its time is over, whatever becomes of the process that made it.

Examples:
  id=$(pyro vm create --start --ttl-seconds 3600 debian:12)
  pyro vm exec $id -- sh -c 'echo kept > /root/file'
  pyro vm exec $id -- cat /root/file
  pyro vm delete $id")]
pub(crate) enum VmCommand {
    /// List the VMs there are
    List {
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Make a VM, and print its ID
    Create(Box<CreateArguments>),
    /// Start a VM that was created, or stopped
    Start(VmIdArguments),
    /// Run a command in a VM that was started
    Exec(ExecArguments),
    /// Show one VM
    Status(VmIdArguments),
    /// List the commands of a VM, or print what one of them wrote
    Logs(LogsArguments),
    /// Show what a VM's network is
    NetworkInfo(VmIdArguments),
    /// End a VM's machine and its commands; what they wrote is kept
    Stop(VmIdArguments),
    /// End a VM for good
    Delete(VmIdArguments),
    /// Delete VMs whose time is over, and what killed ones left; both also happen by themselves
    Reap {
        #[command(flatten)]
        output: OutputArguments,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CreateArguments {
    /// The environment, for instance `debian:12`; see `pyro env list`
    pub(crate) environment: String,
    #[command(flatten)]
    pub(crate) vm: VmArguments,
    /// A note that `status` shows; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_and_value)]
    pub(crate) metadata: Vec<(String, String)>,
    /// Start it as well
    #[arg(long)]
    pub(crate) start: bool,
    #[command(flatten)]
    pub(crate) archive: ArchiveArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
    #[command(flatten)]
    pub(crate) network: NetworkArguments,
}

#[derive(Debug, Args)]
pub(crate) struct VmIdArguments {
    /// As printed by `pyro vm create`; see `pyro vm list`
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Debug, Args)]
#[command(after_help = "\
What a command wrote is kept until its VM is deleted: of each stream the first 64 MiB, of all \
commands of a VM the latest 200 and 256 MiB. Standard output comes on standard output, standard \
error on standard error.

Examples:
  pyro vm logs $id                    the commands, with their numbers
  pyro vm logs $id 3 > out 2> err     what the third wrote")]
pub(crate) struct LogsArguments {
    /// As printed by `pyro vm create`; see `pyro vm list`
    pub(crate) id: String,
    /// The number of a command
    pub(crate) run: Option<u32>,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The command's output is streamed as it comes, its standard input is this one's. The VM goes on \
afterwards; the command ends with this process.

Examples:
  pyro vm exec -it $id -- bash
  pyro vm exec -e GREETING=hi -w /tmp $id -- sh -c 'echo $GREETING from $PWD'

Exit codes: the command's own; 124 if it ran out of time; 128 + N if signal N killed it; \
125 if pyro itself could not run it.")]
pub(crate) struct ExecArguments {
    /// As printed by `pyro vm create`; see `pyro vm list`
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) command: CommandArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
    /// The command and its arguments, after `--`
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) words: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A spare is a VM that was restored ahead and stands still: some 75 MB of memory, no CPU. `pyro run` \
and every other surface take one where it fits, each is used once, and it is replaced afterwards. \
They are kept by a process in the background, which ends when the time is over or with --stop, \
or when another one keeps spares of the same kind instead: the last `pyro warm` counts.

Examples:
  pyro warm debian:12 --count 2 --for 30m
  pyro run debian:12 -- git --version
  pyro warm --status
  pyro warm --stop")]
pub(crate) struct WarmArguments {
    /// The environment, for instance `debian:12`; see `pyro env list`
    #[arg(required_unless_present_any = ["status", "stop"])]
    pub(crate) environment: Option<String>,
    /// How many to keep (1 to 16)
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true, value_parser = whole_number)]
    pub(crate) count: i64,
    /// For how long, as 90s, 30m or 2h (1m to 24h) [default: 30m]
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub(crate) time: Option<Duration>,
    /// Virtual CPUs of each (1 to 8)
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true, value_parser = whole_number)]
    pub(crate) vcpu_count: i64,
    /// Memory of each in MiB (256 to 32768)
    #[arg(long, value_name = "MIB", default_value_t = 1024, allow_negative_numbers = true, value_parser = whole_number)]
    pub(crate) mem_mib: i64,
    /// Keep VMs with a network; which one is up to those who use them
    #[arg(long)]
    pub(crate) network: bool,
    /// Show who keeps spares, and which there are
    #[arg(long, conflicts_with_all = ["environment", "stop"])]
    pub(crate) status: bool,
    /// End all that were started by this command
    #[arg(long, conflicts_with = "environment")]
    pub(crate) stop: bool,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Debug, Subcommand)]
pub(crate) enum EnvironmentCommand {
    /// List the environments and what of them is installed
    List {
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Make an environment ready, or repair it
    Pull {
        /// For instance `debian:12`; see `pyro env list`
        environment: String,
        /// Build it anew from the archive's present state, for instance for security updates
        #[arg(long)]
        refresh: bool,
        #[command(flatten)]
        archive: ArchiveArguments,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Show one environment
    Inspect {
        /// For instance `debian:12`; see `pyro env list`
        environment: String,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Delete what is outdated, replaced, damaged or was left by an interrupted pull
    Prune {
        /// Delete every environment and every template
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        output: OutputArguments,
    },
}

/// Where environments come from.
#[derive(Debug, Args)]
pub(crate) struct ArchiveArguments {
    /// Debian mirror: a URL or a whole `deb …` line; may be given several times
    /// [default: as this host's apt]
    #[arg(long, value_name = "URL")]
    pub(crate) mirror: Vec<String>,
    /// Proxy through which the mirror is reached
    #[arg(long, value_name = "URL")]
    pub(crate) proxy: Option<String>,
}

/// How the outcome is shown.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct OutputArguments {
    /// Print one JSON document on standard output
    #[arg(long)]
    pub(crate) json: bool,
    /// Say nothing on standard error but errors
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// Say more on standard error
    #[arg(long, short, conflicts_with = "quiet")]
    pub(crate) verbose: bool,
}

pub(crate) fn whole_number(text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| "a whole number is needed, see `pyro run --help`".to_owned())
}

/// A number and `s`, `m` or `h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let seconds = |unit: char| match unit {
        's' => Some(1),
        'm' => Some(60),
        'h' => Some(3600),
        _ => None,
    };
    let parsed = text.chars().last().and_then(|unit| {
        let number = text.strip_suffix(unit)?.parse::<u64>().ok()?;
        number.checked_mul(seconds(unit)?)
    });
    parsed.map(Duration::from_secs).ok_or_else(|| {
        "a whole number and `s`, `m` or `h` are needed, for instance 90s, 30m or 2h".to_owned()
    })
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=').ok_or("a name, `=` and a value are needed")?;
    Ok((parts.0.to_owned(), parts.1.to_owned()))
}

pub(crate) fn number(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| "a number is needed, for instance 30 or 0.5".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn texts_below_the_options_leave_it_to_the_terminal_to_break_them() {
        let mut commands = vec![Arguments::command()];
        while let Some(command) = commands.pop() {
            commands.extend(command.get_subcommands().cloned());
            let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            for (line, next) in lines.iter().zip(&lines[1.min(lines.len())..]) {
                let is_paragraph = line.is_empty() || next.is_empty() || next.starts_with("  ");
                assert!(is_paragraph, "{}: {line}", command.get_name());
            }
            // An example is to be copied as one line.
            for line in lines.iter().filter(|line| line.starts_with("  ")) {
                assert!(line.chars().count() <= 80, "{}: {line}", command.get_name());
            }
        }
    }

    #[test]
    fn durations_have_units() {
        for (text, seconds) in [("90s", 90), ("30m", 1800), ("2h", 7200)] {
            assert_eq!(duration(text).unwrap(), Duration::from_secs(seconds));
        }
        for text in ["", "30", "m", "-1m", "1.5h", "1d", "30µ", "99999999999999999999h"] {
            assert!(duration(text).unwrap_err().contains("30m"), "{text}");
        }
    }

    #[test]
    fn defaults_are_those_of_the_core() {
        let arguments = Arguments::parse_from(["pyro", "run", "debian:12", "--", "true"]);
        let Command::Run(run) = arguments.command else { panic!("not run") };
        assert_eq!(run.vm.vcpu_count, i64::from(pyro_core::VcpuCount::DEFAULT.get()));
        assert_eq!(run.vm.mem_mib, i64::from(pyro_core::MemoryMib::DEFAULT.get()));
        assert_eq!(run.command.timeout_seconds, None);
        assert_eq!(pyro_core::Timeout::DEFAULT, pyro_core::Timeout::from_seconds(30.0).unwrap());
        let time_to_live = pyro_core::TimeToLive::from_seconds(run.vm.ttl_seconds).unwrap();
        assert_eq!(time_to_live, pyro_core::TimeToLive::DEFAULT);
    }
}
