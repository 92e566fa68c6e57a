//! `pyro_mcp._native`: the core of pyro for Python.
//!
//! This crate turns Python's values into the core's, and what comes back into Python's; it waits without the
//! interpreter's lock, and notices when a wait is no longer wanted. What users see, `pyro_mcp`, is written in Python
//! on top of it: signatures, documentation, `with` and `async`.
#![allow(unreachable_pub, reason = "the interpreter sees what the compiler does not")]

mod engine;

mod arguments;

mod call;

mod stream;

mod server;

mod payload;

mod errors;

mod interpreter;

mod runtime;

use pyo3::prelude::*;

#[pymodule]
mod _native {
    use super::{Bound, PyModule, PyModuleMethods, PyResult};

    #[pymodule_export]
    use crate::call::Call;
    #[pymodule_export]
    use crate::engine::Engine;
    #[pymodule_export]
    use crate::server::Server;
    #[pymodule_export]
    use crate::stream::Stream;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        crate::interpreter::close_at_exit(module)?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("DEFAULTS", crate::arguments::defaults(module.py())?)?;
        module.add("ERRORS", crate::errors::class_names(module.py())?)
    }
}
