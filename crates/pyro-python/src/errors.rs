//! The one mapping from the core's errors to Python's exceptions, which `pyro_mcp._errors` defines.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use pyro_core::{ErrorKind, PyroError};

/// The name of the class for each kind. Those for bad input and unknown names are `ValueError`s as well, all others
/// `RuntimeError`s.
fn class_name(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidInput => "InvalidInputError",
        ErrorKind::UnknownEnvironment => "UnknownEnvironmentError",
        ErrorKind::UnknownVm => "UnknownVMError",
        ErrorKind::EnvironmentUnavailable => "EnvironmentUnavailableError",
        ErrorKind::NoSpace => "NoSpaceError",
        ErrorKind::HostUnsupported => "HostUnsupportedError",
        ErrorKind::VmStartFailed => "VMStartError",
        ErrorKind::VmLost => "VMLostError",
        ErrorKind::VmExpired => "VMExpiredError",
        ErrorKind::NotAvailable => "NotAvailableError",
        ErrorKind::Interrupted => "CallInterruptedError",
        ErrorKind::Internal => "InternalError",
        ErrorKind::WrongVmState => "WrongVMStateError",
        ErrorKind::TooManyVms => "TooManyVMsError",
        ErrorKind::DeadlineReached => "DeadlineReachedError",
    }
}

/// An exception, to be raised.
pub(crate) fn exception(error: &PyroError) -> PyErr {
    Python::attach(|py| match instance(py, error) {
        Ok(exception) => PyErr::from_value(exception),
        Err(failure) => failure,
    })
}

/// An exception as a value.
pub(crate) fn instance<'py>(py: Python<'py>, error: &PyroError) -> PyResult<Bound<'py, PyAny>> {
    let class = py.import("pyro_mcp._errors")?.getattr(class_name(error.kind))?;
    class.call1((
        error.message.as_str(),
        error.kind.code(),
        PyList::new(py, &error.causes)?,
        PyList::new(py, &error.hints)?,
    ))
}

/// Every code and the name of its class, for the tests of the mapping.
pub(crate) fn class_names(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let names = PyDict::new(py);
    for kind in ErrorKind::ALL {
        names.set_item(kind.code(), class_name(kind))?;
    }
    Ok(names)
}
