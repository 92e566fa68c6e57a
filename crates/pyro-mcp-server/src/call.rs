//! A call, parsed and within its pins: what the core is asked for, and how long that may take.

use std::time::Duration;

use pyro_core::{
    CaptureLimit, CommandText, CreateRequest, ErrorKind, ExecRequest, HostCompat, LogRequest,
    MemoryMib, Metadata, Network, NetworkOptions, OutputStream, PolicyOptions, PyroError,
    RunRequest, TimeToLive, Timeout, Variables, VcpuCount, VmId, VmRequest, WorkingDirectory,
    parse_environment,
};
use rmcp::model::JsonObject;

use crate::arguments::Arguments;
use crate::pins::Pins;
use crate::schema::{OUTPUT_BYTES_DEFAULT, OUTPUT_BYTES_MAX};
use crate::tool::Tool;
use crate::turns;

/// For what only looks at files and asks supervisors.
const BRIEF: Duration = Duration::from_mins(1);

/// For a VM's machine to start, where emulation and a busy host are slow.
const START: Duration = Duration::from_mins(5);

/// For a VM from nothing: its environment is pulled, its template made.
const FROM_NOTHING: Duration = Duration::from_mins(30);

/// From the end of a command's time to the end of its call.
const GRACE: Duration = Duration::from_secs(30);

/// What the core is asked for.
#[derive(Debug)]
pub(crate) enum Call {
    Run(Box<RunRequest>, Input),
    ListEnvironments,
    Create(Box<CreateRequest>),
    Start(VmId),
    Exec(VmId, Box<ExecRequest>, Input),
    Logs(VmId, Option<LogRequest>),
    List,
    Status(VmId),
    NetworkInfo(VmId),
    Stop(VmId),
    Delete(VmId),
    ReapExpired,
}

/// A command's standard input.
#[derive(Debug)]
pub(crate) struct Input(pub(crate) Option<String>);

impl Call {
    /// Fails with what is wrong with an argument, and with the pin that it goes beyond.
    pub(crate) fn parse(
        tool: Tool,
        arguments: Option<JsonObject>,
        pins: &Pins,
    ) -> Result<Self, PyroError> {
        let mut arguments = Arguments::new(tool, arguments)?;
        let arguments = &mut arguments;
        match tool {
            Tool::Run => {
                // The command first: it is what is forgotten most.
                let exec = exec(arguments, pins)?;
                let input = Input(arguments.text("stdin")?);
                let host_compat = host_compat(arguments, pins)?;
                let vm = vm(arguments, pins)?;
                Ok(Self::Run(Box::new(RunRequest { vm, exec, host_compat }), input))
            }
            Tool::Create => {
                let metadata = Metadata::new(arguments.texts("metadata")?)?;
                let host_compat = host_compat(arguments, pins)?;
                let vm = vm(arguments, pins)?;
                Ok(Self::Create(Box::new(CreateRequest { vm, metadata, host_compat })))
            }
            Tool::Exec => {
                let exec = exec(arguments, pins)?;
                let input = Input(arguments.text("stdin")?);
                Ok(Self::Exec(vm_id(arguments)?, Box::new(exec), input))
            }
            Tool::Logs => Ok(Self::Logs(vm_id(arguments)?, log(arguments)?)),
            Tool::ListEnvironments => Ok(Self::ListEnvironments),
            Tool::Start => vm_id(arguments).map(Self::Start),
            Tool::List => Ok(Self::List),
            Tool::Status => vm_id(arguments).map(Self::Status),
            Tool::NetworkInfo => vm_id(arguments).map(Self::NetworkInfo),
            Tool::Stop => vm_id(arguments).map(Self::Stop),
            Tool::Delete => vm_id(arguments).map(Self::Delete),
            Tool::ReapExpired => Ok(Self::ReapExpired),
        }
    }

    /// The VM that it is about, if that is there already.
    pub(crate) fn vm_id(&self) -> Option<&VmId> {
        match self {
            Self::Start(id)
            | Self::Exec(id, ..)
            | Self::Logs(id, _)
            | Self::Status(id)
            | Self::NetworkInfo(id)
            | Self::Stop(id)
            | Self::Delete(id) => Some(id),
            Self::Run(..)
            | Self::ListEnvironments
            | Self::List
            | Self::Create(_)
            | Self::ReapExpired => None,
        }
    }

    /// How long the call may take, whatever happens.
    pub(crate) fn deadline(&self) -> Duration {
        match self {
            Self::Run(request, _) => {
                turns::WAIT_MAX + FROM_NOTHING + request.exec.timeout.get() + GRACE
            }
            Self::Create(_) => FROM_NOTHING,
            Self::Start(_) => START,
            Self::Exec(_, request, _) => request.timeout.get() + GRACE,
            Self::ListEnvironments
            | Self::Logs(..)
            | Self::List
            | Self::Status(_)
            | Self::NetworkInfo(_)
            | Self::Stop(_)
            | Self::Delete(_)
            | Self::ReapExpired => BRIEF,
        }
    }

    /// The longest deadline that a call can have.
    pub(crate) fn deadline_max(pins: &Pins) -> Duration {
        turns::WAIT_MAX + FROM_NOTHING + pins.timeout_max.get() + GRACE
    }
}

fn vm(arguments: &mut Arguments, pins: &Pins) -> Result<VmRequest, PyroError> {
    let environment = parse_environment(&arguments.required_text("environment")?)?;
    // What the caller leaves open stays within the pins.
    let vcpu_count = match arguments.whole_number("vcpu_count")? {
        Some(count) => VcpuCount::new(count)?,
        None => smaller(VcpuCount::DEFAULT, pins.vcpu_count_max, VcpuCount::get),
    };
    let memory = match arguments.whole_number("mem_mib")? {
        Some(mib) => MemoryMib::new(mib)?,
        None => smaller(MemoryMib::DEFAULT, pins.memory_max, MemoryMib::get),
    };
    let time_to_live = match arguments.whole_number("ttl_seconds")? {
        Some(seconds) => TimeToLive::from_seconds(seconds)?,
        None => smaller(TimeToLive::DEFAULT, pins.time_to_live_max, TimeToLive::get),
    };
    let network = network(arguments)?;
    let mut request = VmRequest { environment, vcpu_count, memory, time_to_live, network };
    pins.check_vm(&request)?;
    if let Network::On(network) = &mut request.network {
        network.pin(pins.network.clone());
    }
    Ok(request)
}

fn network(arguments: &mut Arguments) -> Result<Network, PyroError> {
    Network::new(&NetworkOptions {
        network: arguments.flag("network")?,
        policy: PolicyOptions {
            allow_hosts: arguments.list("allow_hosts")?,
            allow_cidrs: arguments.list("allow_cidrs")?,
            deny_hosts: arguments.list("deny_hosts")?,
            deny_cidrs: arguments.list("deny_cidrs")?,
            allow_public: arguments.flag("allow_public")?,
        },
        publish: arguments.list("publish")?,
        host_proxy: arguments.flag("host_proxy")?,
        host_ca: arguments.flag("host_ca")?,
    })
}

fn exec(arguments: &mut Arguments, pins: &Pins) -> Result<ExecRequest, PyroError> {
    let command = CommandText::new(arguments.required_text("command")?)?;
    let timeout = match arguments.number("timeout_seconds")? {
        Some(seconds) => Timeout::from_seconds(seconds)?,
        None => smaller(Timeout::DEFAULT, pins.timeout_max, Timeout::get),
    };
    pins.check_timeout(timeout)?;
    let capture = capture(arguments)?;
    let variables = Variables::new(arguments.texts("env")?)?;
    let working_directory = arguments.text("cwd")?.map(WorkingDirectory::new).transpose()?;
    Ok(ExecRequest { command, timeout, capture, variables, working_directory })
}

/// What is asked for of a VM's commands: a part of one, or which there are.
fn log(arguments: &mut Arguments) -> Result<Option<LogRequest>, PyroError> {
    let stream = match arguments.text("stream")?.as_deref() {
        None | Some("stdout") => OutputStream::Stdout,
        Some("stderr") => OutputStream::Stderr,
        Some(other) => {
            return Err(invalid(format!("stream must be stdout or stderr, not '{other}'")));
        }
    };
    let run_id = arguments.whole_number("run_id")?;
    let offset = arguments.whole_number("offset")?.unwrap_or(0);
    let bytes_max = match arguments.whole_number("bytes_max")? {
        Some(bytes) => within("bytes_max", bytes, 1, OUTPUT_BYTES_MAX)?,
        None => OUTPUT_BYTES_DEFAULT,
    };
    let offset = within("offset", offset, 0, i64::MAX)?;
    let run_id = run_id.map(|run_id| within("run_id", run_id, 1, u32::MAX)).transpose()?;
    Ok(run_id.map(|run_id| LogRequest { run_id, stream, offset, bytes_max }))
}

fn capture(arguments: &mut Arguments) -> Result<CaptureLimit, PyroError> {
    match arguments.whole_number("output_bytes_max")? {
        Some(bytes) => within("output_bytes_max", bytes, 0, OUTPUT_BYTES_MAX).map(CaptureLimit),
        None => Ok(CaptureLimit(OUTPUT_BYTES_DEFAULT)),
    }
}

fn host_compat(arguments: &mut Arguments, pins: &Pins) -> Result<HostCompat, PyroError> {
    let wanted = if arguments.flag("allow_host_compat")? {
        HostCompat::Allowed
    } else {
        HostCompat::Forbidden
    };
    pins.check_host_compat(wanted)?;
    Ok(wanted)
}

fn vm_id(arguments: &mut Arguments) -> Result<VmId, PyroError> {
    VmId::new(&arguments.required_text("vm_id")?)
}

fn smaller<T: Copy, V: PartialOrd>(one: T, other: T, value: impl Fn(T) -> V) -> T {
    if value(one) <= value(other) { one } else { other }
}

/// A number that its type can hold, between two limits.
fn within<T, M>(name: &str, value: i64, min: u8, max: M) -> Result<T, PyroError>
where
    T: TryFrom<i64>,
    M: TryInto<i64> + Copy + std::fmt::Display,
{
    let is_within = value >= min.into() && max.try_into().is_ok_and(|max| value <= max);
    let number = if is_within { T::try_from(value).ok() } else { None };
    number.ok_or_else(|| invalid(format!("{name} must be between {min} and {max}, not {value}")))
}

fn invalid(message: String) -> PyroError {
    PyroError::new(ErrorKind::InvalidInput, message)
}
