//! From Python's values to what the core is asked for. Every limit is the core's.

use std::collections::BTreeMap;
use std::io::Cursor;

use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use pyro_core::{
    CommandText, CreateRequest, ExecRequest, FileBytesMax, FileRequest, GuestPath, HostCompat,
    MemoryMib, Metadata, Network, PyroError, RunRequest, Streams, TimeToLive, Timeout, Variables,
    VcpuCount, VmRequest, WorkingDirectory, parse_environment,
};

/// What a VM is to be.
#[derive(Debug, FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct VmArguments {
    environment: String,
    vcpu_count: WholeNumber,
    mem_mib: WholeNumber,
    ttl_seconds: WholeNumber,
    network: bool,
    allow_host_compat: bool,
}

/// What a command is to be.
#[derive(Debug, FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct ExecArguments {
    command: String,
    timeout_seconds: f64,
    env: BTreeMap<String, String>,
    cwd: Option<String>,
    /// `None` for an empty input.
    stdin: Option<Vec<u8>>,
}

/// An integer of any size. What is too large for the core's is too large for each of its limits as well, and is
/// refused by that.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WholeNumber(pub(crate) i64);

/// A command's input.
pub(crate) struct Input(Option<Vec<u8>>);

impl<'a, 'py> FromPyObject<'a, 'py> for WholeNumber {
    type Error = PyErr;

    fn extract(number: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        match number.extract() {
            Ok(value) => Ok(Self(value)),
            Err(error) if error.is_instance_of::<PyOverflowError>(number.py()) => {
                Ok(Self(if number.lt(0)? { i64::MIN } else { i64::MAX }))
            }
            Err(error) => Err(error),
        }
    }
}

impl VmArguments {
    fn parse(self) -> Result<(VmRequest, HostCompat), PyroError> {
        let request = VmRequest {
            environment: parse_environment(&self.environment)?,
            vcpu_count: VcpuCount::new(self.vcpu_count.0)?,
            memory: MemoryMib::new(self.mem_mib.0)?,
            time_to_live: TimeToLive::from_seconds(self.ttl_seconds.0)?,
            network: if self.network { Network::On } else { Network::Off },
        };
        let host_compat =
            if self.allow_host_compat { HostCompat::Allowed } else { HostCompat::Forbidden };
        Ok((request, host_compat))
    }
}

impl ExecArguments {
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

pub(crate) fn file(path: &str, timeout_seconds: f64) -> Result<FileRequest, PyroError> {
    let path = GuestPath::new(path)?;
    Ok(FileRequest { path, timeout: Timeout::from_seconds(timeout_seconds)? })
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
