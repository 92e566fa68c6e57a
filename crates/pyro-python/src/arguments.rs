//! From Python's values to what the core is asked for. Every limit is the core's; what is refused here has a type that
//! makes no sense, and is named as users named it.

use std::collections::BTreeMap;
use std::io::Cursor;

use pyo3::exceptions::{PyOverflowError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyString};
use pyro_core::{
    CommandText, CreateRequest, ErrorKind, ExecRequest, FileBytesMax, FileRequest, GuestPath,
    HostCompat, MemoryMib, Metadata, Network, NetworkOptions, PinOptions, PolicyOptions, PyroError,
    RunRequest, Streams, TimeToLive, Timeout, Variables, VcpuCount, VmRequest, WorkingDirectory,
    parse_environment,
};

use crate::errors;

/// What a VM is to be.
#[derive(Debug)]
pub(crate) struct VmArguments {
    environment: String,
    vcpu_count: i64,
    mem_mib: i64,
    ttl_seconds: i64,
    network: NetworkOptions,
    allow_host_compat: bool,
}

/// What a command is to be.
#[derive(Debug)]
pub(crate) struct ExecArguments {
    command: String,
    timeout_seconds: f64,
    env: BTreeMap<String, String>,
    cwd: Option<String>,
    /// `None` for an empty input.
    stdin: Option<Vec<u8>>,
}

/// A command's input.
pub(crate) struct Input(Option<Vec<u8>>);

/// The field of a dictionary that `pyro_mcp._options` made.
fn field<'py>(options: &Bound<'py, PyDict>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    options.as_any().get_item(name)
}

fn wrong_type(name: &str, expected: &str, value: &Bound<'_, PyAny>) -> PyErr {
    match value.get_type().name() {
        Ok(class) => PyTypeError::new_err(format!("{name} must be {expected}, not {class}")),
        Err(error) => error,
    }
}

pub(crate) fn text(value: &Bound<'_, PyAny>, name: &str) -> PyResult<String> {
    let text = value.cast::<PyString>().map_err(|_| wrong_type(name, "str", value))?;
    text.extract().map_err(|_: PyErr| {
        let message = format!("{name} must be text that UTF-8 can express");
        errors::exception(&PyroError::new(ErrorKind::InvalidInput, message))
    })
}

/// A path in the guest.
pub(crate) fn path(value: &Bound<'_, PyAny>, name: &str) -> PyResult<String> {
    let path = match value.cast::<PyString>() {
        Ok(text) => text.clone().into_any(),
        Err(_) => value
            .py()
            .import("os")?
            .call_method1("fspath", (value,))
            .map_err(|_| wrong_type(name, "str or os.PathLike", value))?,
    };
    text(&path, name)
}

fn yes_or_no(value: &Bound<'_, PyAny>, name: &str) -> PyResult<bool> {
    value.extract().map_err(|_: PyErr| wrong_type(name, "bool", value))
}

/// An integer of any size. What is too large for the core's is too large for each of its limits as well, and is
/// refused by that.
pub(crate) fn whole_number(value: &Bound<'_, PyAny>, name: &str) -> PyResult<i64> {
    if value.is_instance_of::<PyBool>() {
        return Err(wrong_type(name, "int", value));
    }
    match value.extract() {
        Ok(number) => Ok(number),
        Err(error) if PyErr::is_instance_of::<PyOverflowError>(&error, value.py()) => {
            Ok(if value.lt(0)? { i64::MIN } else { i64::MAX })
        }
        Err(_) => Err(wrong_type(name, "int", value)),
    }
}

/// An integer that has a limit because of its type only.
pub(crate) fn small_number<T>(value: &Bound<'_, PyAny>, name: &str) -> PyResult<T>
where
    T: TryFrom<i64> + std::fmt::Display + Bounds,
{
    T::try_from(whole_number(value, name)?).map_err(|_| {
        let (min, max) = (T::MIN, T::MAX);
        let message = format!("{name} must be between {min} and {max}, not {value}");
        errors::exception(&PyroError::new(ErrorKind::InvalidInput, message))
    })
}

/// Numbers of Python that stand for no more than these.
pub(crate) trait Bounds {
    const MIN: Self;
    const MAX: Self;
}

impl Bounds for u16 {
    const MIN: Self = Self::MIN;
    const MAX: Self = Self::MAX;
}

impl Bounds for u32 {
    /// Runs are counted from 1.
    const MIN: Self = 1;
    const MAX: Self = Self::MAX;
}

pub(crate) fn seconds(value: &Bound<'_, PyAny>, name: &str) -> PyResult<f64> {
    if value.is_instance_of::<PyBool>() {
        return Err(wrong_type(name, "int or float", value));
    }
    if let Ok(number) = value.cast::<PyFloat>() {
        return number.extract();
    }
    match value.extract() {
        Ok(number) => Ok(number),
        Err(error) if PyErr::is_instance_of::<PyOverflowError>(&error, value.py()) => {
            Ok(if value.lt(0)? { f64::NEG_INFINITY } else { f64::MAX })
        }
        Err(_) => Err(wrong_type(name, "int or float", value)),
    }
}

/// Texts by their names.
pub(crate) fn texts(value: &Bound<'_, PyAny>, name: &str) -> PyResult<BTreeMap<String, String>> {
    let pairs = value.cast::<PyDict>().map_err(|_| wrong_type(name, "dict", value))?;
    let (names, values) = (format!("a name in {name}"), format!("a value in {name}"));
    pairs.iter().map(|(key, value)| Ok((text(&key, &names)?, text(&value, &values)?))).collect()
}

/// Several texts; one alone is none, though it is a sequence of texts as well.
fn list(value: &Bound<'_, PyAny>, name: &str) -> PyResult<Vec<String>> {
    let wrong = || wrong_type(name, "a sequence of str", value);
    if value.is_instance_of::<PyString>() {
        return Err(wrong());
    }
    let item = format!("an item of {name}");
    value.try_iter().map_err(|_| wrong())?.map(|value| text(&value?, &item)).collect()
}

/// From a dictionary that `pyro_mcp._options` made.
fn network(options: &Bound<'_, PyAny>) -> PyResult<NetworkOptions> {
    let options = options.cast::<PyDict>().map_err(|_| wrong_type("network", "dict", options))?;
    let yes = |name| yes_or_no(&field(options, name)?, name);
    Ok(NetworkOptions {
        network: yes("network")?,
        policy: policy(options)?,
        publish: list(&field(options, "publish")?, "publish")?,
        host_proxy: yes("host_proxy")?,
        host_ca: yes("host_ca")?,
    })
}

fn policy(options: &Bound<'_, PyDict>) -> PyResult<PolicyOptions> {
    let list = |name| list(&field(options, name)?, name);
    Ok(PolicyOptions {
        allow_hosts: list("allow_hosts")?,
        allow_cidrs: list("allow_cidrs")?,
        deny_hosts: list("deny_hosts")?,
        deny_cidrs: list("deny_cidrs")?,
        allow_public: yes_or_no(&field(options, "allow_public")?, "allow_public")?,
    })
}

/// What an operator pins, from a dictionary that `pyro_mcp._options` made.
pub(crate) fn pin(options: &Bound<'_, PyDict>) -> PyResult<PinOptions> {
    let yes = |name| yes_or_no(&field(options, name)?, name);
    let (network, publish) = (yes("network")?, yes("publish")?);
    Ok(PinOptions { network, policy: policy(options)?, publish })
}

impl VmArguments {
    pub(crate) fn of(options: &Bound<'_, PyDict>) -> PyResult<Self> {
        let whole = |name| whole_number(&field(options, name)?, name);
        let yes = |name| yes_or_no(&field(options, name)?, name);
        Ok(Self {
            environment: text(&field(options, "environment")?, "environment")?,
            vcpu_count: whole("vcpu_count")?,
            mem_mib: whole("mem_mib")?,
            ttl_seconds: whole("ttl_seconds")?,
            network: network(&field(options, "network")?)?,
            allow_host_compat: yes("allow_host_compat")?,
        })
    }

    fn parse(self) -> Result<(VmRequest, HostCompat), PyroError> {
        let request = VmRequest {
            environment: parse_environment(&self.environment)?,
            vcpu_count: VcpuCount::new(self.vcpu_count)?,
            memory: MemoryMib::new(self.mem_mib)?,
            time_to_live: TimeToLive::from_seconds(self.ttl_seconds)?,
            network: Network::new(&self.network)?,
        };
        let host_compat =
            if self.allow_host_compat { HostCompat::Allowed } else { HostCompat::Forbidden };
        Ok((request, host_compat))
    }
}

impl ExecArguments {
    pub(crate) fn of(options: &Bound<'_, PyDict>) -> PyResult<Self> {
        let cwd = field(options, "cwd")?;
        Ok(Self {
            command: text(&field(options, "command")?, "command")?,
            timeout_seconds: seconds(&field(options, "timeout_seconds")?, "timeout_seconds")?,
            env: texts(&field(options, "env")?, "env")?,
            cwd: if cwd.is_none() { None } else { Some(path(&cwd, "cwd")?) },
            stdin: field(options, "stdin")?.extract()?,
        })
    }

    pub(crate) fn parse(self) -> Result<(ExecRequest, Input), PyroError> {
        let request = ExecRequest {
            timeout: Timeout::from_seconds(self.timeout_seconds)?,
            variables: Variables::new(self.env)?,
            working_directory: self.cwd.map(WorkingDirectory::new).transpose()?,
            ..ExecRequest::new(CommandText::new(self.command)?)
        };
        Ok((request, Input(self.stdin)))
    }
}

impl Input {
    pub(crate) fn into_streams(self) -> Streams<'static> {
        let stdin = self.0.map(|bytes| Box::new(Cursor::new(bytes)) as _);
        Streams { stdin, ..Streams::default() }
    }
}

pub(crate) fn run(vm: VmArguments, exec: ExecArguments) -> Result<(RunRequest, Input), PyroError> {
    // The command first: it is what is forgotten most.
    let (exec, input) = exec.parse()?;
    let (vm, host_compat) = vm.parse()?;
    Ok((RunRequest { vm, exec, host_compat }, input))
}

pub(crate) fn create(
    vm: VmArguments,
    metadata: BTreeMap<String, String>,
) -> Result<CreateRequest, PyroError> {
    let (vm, host_compat) = vm.parse()?;
    Ok(CreateRequest { vm, metadata: Metadata::new(metadata)?, host_compat })
}

pub(crate) fn file(
    path: &Bound<'_, PyAny>,
    timeout_seconds: &Bound<'_, PyAny>,
) -> PyResult<FileRequest> {
    let path = self::path(path, "path")?;
    let timeout_seconds = seconds(timeout_seconds, "timeout_seconds")?;
    let request = || {
        let path = GuestPath::new(path)?;
        Ok(FileRequest { path, timeout: Timeout::from_seconds(timeout_seconds)? })
    };
    request().map_err(|error: PyroError| errors::exception(&error))
}

/// The core's defaults. Python's signatures repeat them for readers, and a test compares.
pub(crate) fn defaults(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let defaults = PyDict::new(py);
    defaults.set_item("vcpu_count", VcpuCount::DEFAULT.get())?;
    defaults.set_item("mem_mib", MemoryMib::DEFAULT.get())?;
    defaults.set_item("ttl_seconds", TimeToLive::DEFAULT.get().as_secs())?;
    defaults.set_item("timeout_seconds", Timeout::DEFAULT.get().as_secs_f64())?;
    defaults.set_item("bytes_max", FileBytesMax::DEFAULT.get())?;
    Ok(defaults)
}
