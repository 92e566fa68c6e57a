//! What calls give, on its way to Python: the JSON of the command line, bytes, or nothing.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use pyro_core::{ErrorKind, OutputStream, PyroError};
use serde::Serialize;

/// A result that no longer needs the runtime, and does not yet need the interpreter.
#[derive(Debug)]
pub(crate) enum Payload {
    /// A whole document.
    Json(String),
    Bytes(Vec<u8>),
    /// A piece of what a command wrote.
    Output(OutputStream, Arc<[u8]>),
    Nothing,
}

impl Payload {
    /// The object that every surface shows.
    pub(crate) fn of(value: &impl Serialize) -> Result<Self, PyroError> {
        let text = serde_json::to_string(value).map_err(|error| {
            PyroError::from_error(ErrorKind::Internal, &error).context("cannot show the outcome")
        })?;
        Ok(Self::Json(text))
    }

    /// Python reads its own JSON: that keeps the order of the keys, and a second reader out of here.
    pub(crate) fn into_python(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        match self {
            Self::Json(text) => py.import("json")?.call_method1("loads", (text,)),
            Self::Bytes(bytes) => Ok(PyBytes::new(py, &bytes).into_any()),
            Self::Output(stream, bytes) => {
                let name = match stream {
                    OutputStream::Stdout => "stdout",
                    OutputStream::Stderr => "stderr",
                };
                Ok((name, PyBytes::new(py, &bytes)).into_pyobject(py)?.into_any())
            }
            Self::Nothing => Ok(py.None().into_bound(py)),
        }
    }
}
