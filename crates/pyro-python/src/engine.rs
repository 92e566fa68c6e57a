//! Class `Engine`: everything pyro does, each as a [`Call`].

use std::convert::Infallible;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyDict;
use pyro_core::{
    ActiveVmsMax, Config, ErrorKind, FileBytesMax, OutputStream, PruneScope, PullMode, Pyro,
    PyroError, SpareCount, Streams, VmId, parse_environment,
};
use serde::Serialize;
use tokio::task::JoinHandle;

use crate::arguments::{self, ExecArguments, VmArguments};
use crate::call::{Call, Outcome};
use crate::errors;
use crate::payload::Payload;
use crate::runtime::{Owned, PerProcess, runtime};
use crate::server::Server;
use crate::stream::Stream;

/// The core, configured. Its methods check what they are given, and give a call that is to be waited for.
#[pyclass(frozen, module = "pyro_mcp._native")]
pub(crate) struct Engine {
    config: Config,
    spares: Option<SpareCount>,
    pyro: PerProcess<Pyro>,
    keeping: Mutex<Option<Owned<Keeping>>>,
}

/// The work of keeping spares, which ends when this is dropped.
struct Keeping(JoinHandle<Infallible>);

impl Drop for Keeping {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Engine {
    fn pyro(&self) -> Pyro {
        self.pyro.get(|| {
            let pyro = Pyro::new(self.config.clone());
            match self.spares {
                Some(count) => self.keep_spares(pyro.with_spares(count)),
                None => pyro,
            }
        })
    }

    /// Without a runtime there are no spares, and whatever is called next says so.
    fn keep_spares(&self, pyro: Pyro) -> Pyro {
        if let Ok(runtime) = runtime() {
            let keeper = pyro.clone();
            let task = runtime.spawn(async move { keeper.keep_spares().await });
            *self.keeping() = Some(Owned::new(Keeping(task)));
        }
        pyro
    }

    fn keeping(&self) -> MutexGuard<'_, Option<Owned<Keeping>>> {
        self.keeping.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call of what the core does without waiting. It may read, or delete, for a while.
    fn brief<T: Serialize + Send + 'static>(
        &self,
        work: impl FnOnce(&Pyro) -> Result<T, PyroError> + Send + 'static,
    ) -> Call {
        self.blocking(move |pyro| Payload::of(&work(pyro)?))
    }

    fn blocking(&self, work: impl FnOnce(&Pyro) -> Outcome + Send + 'static) -> Call {
        let pyro = self.pyro();
        let worker = pyro.clone();
        Call::new(pyro, async move {
            let done = tokio::task::spawn_blocking(move || work(&worker)).await;
            done.unwrap_or_else(|error| Err(PyroError::from_error(ErrorKind::Internal, &error)))
        })
    }

    /// A call of what the core waits for.
    fn call<T: Serialize>(&self, work: impl AsyncWork<Result<T, PyroError>>) -> Call {
        let pyro = self.pyro();
        let worker = pyro.clone();
        Call::new(pyro, async move { Payload::of(&work.of(worker).await?) })
    }
}

/// A function of the core's value that takes its time.
trait AsyncWork<T>: Send + 'static {
    fn of(self, pyro: Pyro) -> impl Future<Output = T> + Send;
}

impl<T, F, W> AsyncWork<T> for F
where
    F: FnOnce(Pyro) -> W + Send + 'static,
    W: Future<Output = T> + Send,
{
    fn of(self, pyro: Pyro) -> impl Future<Output = T> + Send {
        self(pyro)
    }
}

#[pymethods]
impl Engine {
    /// `executable` is the program `pyro`, which supervises VMs. What is not given comes from environment
    /// variables.
    #[new]
    #[pyo3(signature = (executable, *, cache_dir=None, state_dir=None, max_active_vms=None, spares=None))]
    fn new(
        executable: PathBuf,
        cache_dir: Option<PathBuf>,
        state_dir: Option<PathBuf>,
        max_active_vms: Option<&Bound<'_, PyAny>>,
        spares: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let spares = spares.map(|count| arguments::whole_number(count, "spares")).transpose()?;
        // None is a number of spares as well, though not one that a pool has.
        let spares = spares.filter(|&count| count != 0).map(SpareCount::new).transpose();
        let spares = spares.map_err(|error| errors::exception(&error))?;
        let max_active_vms =
            max_active_vms.map(|max| arguments::whole_number(max, "max_active_vms")).transpose()?;
        let config = || {
            let mut config = Config::from_environment(executable)?;
            if let Some(directory) = cache_dir {
                config.cache_dir = directory;
            }
            if let Some(directory) = state_dir {
                config.state_dir = directory;
            }
            if let Some(max) = max_active_vms {
                config.active_vms_max = ActiveVmsMax::new(max)?;
            }
            Ok(config)
        };
        let config = config().map_err(|error: PyroError| errors::exception(&error))?;
        Ok(Self { config, spares, pyro: PerProcess::new(), keeping: Mutex::default() })
    }

    /// Gives the spares up that nobody has claimed, and waits until they are gone. None are kept after this.
    fn close(&self) -> Call {
        // First: it is what begins to keep them.
        let pyro = self.pyro();
        let keeping = self.keeping().take();
        let worker = pyro.clone();
        Call::new(pyro, async move {
            let kept = keeping.as_ref().and_then(Owned::get);
            if let Some(Keeping(task)) = kept {
                task.abort();
                while !task.is_finished() {
                    tokio::task::yield_now().await;
                }
            }
            drop(keeping);
            worker.settle().await;
            Ok(Payload::Nothing)
        })
    }

    #[getter]
    fn spares(&self) -> u8 {
        self.spares.map_or(0, SpareCount::get)
    }

    /// Where environments are.
    #[getter]
    fn cache_dir(&self) -> PathBuf {
        self.config.cache_dir.clone()
    }

    /// Where VMs are.
    #[getter]
    fn state_dir(&self) -> PathBuf {
        self.config.state_dir.clone()
    }

    #[getter]
    fn max_active_vms(&self) -> u16 {
        self.config.active_vms_max.get()
    }

    fn list_environments(&self) -> Call {
        self.brief(|pyro| Ok(pyro.list_environments()?.environments))
    }

    fn inspect_environment(&self, environment: &str) -> PyResult<Call> {
        let name = checked(parse_environment(environment))?;
        Ok(self.brief(move |pyro| pyro.inspect_environment(name)))
    }

    fn pull_environment(&self, environment: &str, refresh: bool) -> PyResult<Call> {
        let name = checked(parse_environment(environment))?;
        let mode = if refresh { PullMode::Refresh } else { PullMode::IfMissing };
        Ok(self.call(
            move |pyro: Pyro| async move { pyro.pull_environment(name, mode, &|_| {}).await },
        ))
    }

    #[pyo3(signature = (*, everything))]
    fn prune_environments(&self, everything: bool) -> Call {
        let scope = if everything { PruneScope::All } else { PruneScope::Stale };
        self.brief(move |pyro| pyro.prune_environments(scope))
    }

    fn run_in_vm(&self, vm: &Bound<'_, PyDict>, exec: &Bound<'_, PyDict>) -> PyResult<Call> {
        let (request, input) =
            checked(arguments::run(VmArguments::of(vm)?, ExecArguments::of(exec)?))?;
        Ok(self.call(move |pyro: Pyro| async move {
            pyro.run_in_vm(request, input.into_streams(), &|_| {}).await
        }))
    }

    /// The same, while its output is read.
    fn stream_in_vm(&self, vm: &Bound<'_, PyDict>, exec: &Bound<'_, PyDict>) -> PyResult<Stream> {
        let (request, input) =
            checked(arguments::run(VmArguments::of(vm)?, ExecArguments::of(exec)?))?;
        let pyro = self.pyro();
        let worker = pyro.clone();
        Stream::start(pyro, move |stdout, stderr| {
            let streams = Streams {
                stdout: Some(Box::new(stdout)),
                stderr: Some(Box::new(stderr)),
                ..input.into_streams()
            };
            Box::pin(
                async move { Payload::of(&worker.run_in_vm(request, streams, &|_| {}).await?) },
            )
        })
    }

    fn create_vm(&self, vm: &Bound<'_, PyDict>, metadata: &Bound<'_, PyAny>) -> PyResult<Call> {
        let request = checked(arguments::create(
            VmArguments::of(vm)?,
            arguments::texts(metadata, "metadata")?,
        ))?;
        let pyro = self.pyro();
        let (worker, owner) = (pyro.clone(), pyro.clone());
        let work = async move { Payload::of(&worker.create_vm(request, &|_| {}).await?) };
        Ok(Call::with_undo(pyro, work, move |given| {
            let id = created(given);
            async move {
                if let Some(id) = id {
                    // Where that fails the VM's time to live ends it.
                    owner.delete_vm(&id).await.ok();
                    owner.settle().await;
                }
            }
        }))
    }

    fn start_vm(&self, vm_id: &str) -> PyResult<Call> {
        let id = checked(VmId::new(vm_id))?;
        Ok(self.call(move |pyro: Pyro| async move { pyro.start_vm(&id, &|_| {}).await }))
    }

    fn exec_vm(&self, vm_id: &str, exec: &Bound<'_, PyDict>) -> PyResult<Call> {
        let (request, input) = checked(ExecArguments::of(exec)?.parse())?;
        let id = checked(VmId::new(vm_id))?;
        Ok(self.call(move |pyro: Pyro| async move {
            pyro.exec_vm(&id, request, input.into_streams()).await
        }))
    }

    /// The same, while its output is read.
    fn stream_vm(&self, vm_id: &str, exec: &Bound<'_, PyDict>) -> PyResult<Stream> {
        let (request, input) = checked(ExecArguments::of(exec)?.parse())?;
        let id = checked(VmId::new(vm_id))?;
        let pyro = self.pyro();
        let worker = pyro.clone();
        Stream::start(pyro, move |stdout, stderr| {
            let streams = Streams {
                stdout: Some(Box::new(stdout)),
                stderr: Some(Box::new(stderr)),
                ..input.into_streams()
            };
            Box::pin(async move { Payload::of(&worker.exec_vm(&id, request, streams).await?) })
        })
    }

    fn stop_vm(&self, vm_id: &str) -> PyResult<Call> {
        let id = checked(VmId::new(vm_id))?;
        Ok(self.call(move |pyro: Pyro| async move { pyro.stop_vm(&id).await }))
    }

    fn delete_vm(&self, vm_id: &str) -> PyResult<Call> {
        let id = checked(VmId::new(vm_id))?;
        Ok(self.call(move |pyro: Pyro| async move { pyro.delete_vm(&id).await }))
    }

    fn status_vm(&self, vm_id: &str) -> PyResult<Call> {
        let id = checked(VmId::new(vm_id))?;
        Ok(self.brief(move |pyro| pyro.status_vm(&id)))
    }

    fn network_info_vm(&self, vm_id: &str) -> PyResult<Call> {
        let id = checked(VmId::new(vm_id))?;
        Ok(self.brief(move |pyro| pyro.network_info_vm(&id)))
    }

    fn list_vms(&self) -> Call {
        self.call(|pyro: Pyro| async move { Ok(pyro.list_vms().await?.vms) })
    }

    fn reap_expired(&self) -> Call {
        self.call(|pyro: Pyro| async move { pyro.reap_expired().await })
    }

    /// The commands of a VM of which something is kept.
    fn list_runs(&self, vm_id: &str) -> PyResult<Call> {
        let id = checked(VmId::new(vm_id))?;
        Ok(self.brief(move |pyro| pyro.list_runs(&id)))
    }

    /// All that is kept of a command, as text.
    fn run_log(&self, vm_id: &str, run_id: &Bound<'_, PyAny>) -> PyResult<Call> {
        let id = checked(VmId::new(vm_id))?;
        let run_id = arguments::small_number(run_id, "run_id")?;
        Ok(self.brief(move |pyro| pyro.run_log(&id, run_id)))
    }

    /// All that is kept of one stream of a command, as bytes.
    fn log_bytes(&self, vm_id: &str, run_id: &Bound<'_, PyAny>, stream: &str) -> PyResult<Call> {
        let id = checked(VmId::new(vm_id))?;
        let run_id = arguments::small_number(run_id, "run_id")?;
        let stream = match stream {
            "stdout" => OutputStream::Stdout,
            "stderr" => OutputStream::Stderr,
            other => {
                let text = format!("stream must be stdout or stderr, not '{other}'");
                return checked(Err(PyroError::new(ErrorKind::InvalidInput, text)));
            }
        };
        Ok(self.blocking(move |pyro| {
            let mut bytes = Vec::new();
            pyro.open_log(&id, run_id, stream)?.read_to_end(&mut bytes).map_err(|error| {
                PyroError::from_error(ErrorKind::Internal, &error).context("cannot read the log")
            })?;
            Ok(Payload::Bytes(bytes))
        }))
    }

    fn read_file(
        &self,
        vm_id: &str,
        path: &Bound<'_, PyAny>,
        bytes_max: &Bound<'_, PyAny>,
        timeout_seconds: &Bound<'_, PyAny>,
    ) -> PyResult<Call> {
        let request = arguments::file(path, timeout_seconds)?;
        let bytes_max =
            checked(FileBytesMax::new(arguments::whole_number(bytes_max, "bytes_max")?))?;
        let id = checked(VmId::new(vm_id))?;
        let pyro = self.pyro();
        let worker = pyro.clone();
        Ok(Call::new(pyro, async move {
            worker.read_file(&id, &request, bytes_max).await.map(Payload::Bytes)
        }))
    }

    fn write_file(
        &self,
        vm_id: &str,
        path: &Bound<'_, PyAny>,
        data: Vec<u8>,
        timeout_seconds: &Bound<'_, PyAny>,
    ) -> PyResult<Call> {
        let request = arguments::file(path, timeout_seconds)?;
        let id = checked(VmId::new(vm_id))?;
        Ok(self.call(move |pyro: Pyro| async move { pyro.write_file(&id, &request, data).await }))
    }

    fn create_server(
        &self,
        profile: &str,
        allow_host_compat: bool,
        network_pin: &Bound<'_, PyDict>,
    ) -> PyResult<Server> {
        Server::new(self.pyro(), profile, allow_host_compat, &arguments::pin(network_pin)?)
    }

    fn doctor(&self, fix: bool) -> Call {
        self.call(move |pyro: Pyro| async move {
            Ok(if fix { pyro.repair().await } else { pyro.doctor().await })
        })
    }
}

/// The VM that a creation gave.
fn created(given: &Payload) -> Option<VmId> {
    let Payload::Json(text) = given else { return None };
    let info: serde_json::Value = serde_json::from_str(text).ok()?;
    VmId::new(info["vm_id"].as_str()?).ok()
}

fn checked<T>(value: Result<T, PyroError>) -> PyResult<T> {
    value.map_err(|error| errors::exception(&error))
}
