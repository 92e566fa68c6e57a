"""Disposable Linux VMs for Python.

```python
from pyro_mcp import Pyro

pyro = Pyro()
outcome = pyro.run_in_vm(environment="debian:12", command="git --version")
print(outcome["stdout"])
```

`AsyncPyro` is the same for asyncio.
"""

from __future__ import annotations

from pyro_mcp._async_pyro import AsyncPyro
from pyro_mcp._async_stream import AsyncStream
from pyro_mcp._async_vm import AsyncVM
from pyro_mcp._errors import (
    CallInterruptedError,
    CommandFailedError,
    DeadlineReachedError,
    EnvironmentUnavailableError,
    HostUnsupportedError,
    InternalError,
    InvalidInputError,
    NoSpaceError,
    NotAvailableError,
    PyroError,
    TooManyVMsError,
    UnknownEnvironmentError,
    UnknownVMError,
    VMExpiredError,
    VMLostError,
    VMStartError,
    WrongVMStateError,
)
from pyro_mcp._native import __version__
from pyro_mcp._options import NetworkPin
from pyro_mcp._payloads import (
    AllowWith,
    Cleanup,
    DoctorReport,
    Environment,
    ExecOutcome,
    NetworkInfo,
    NetworkRefusal,
    Output,
    PruneReport,
    PulledEnvironment,
    ReapReport,
    RunInfo,
    RunList,
    RunLog,
    RunOutcome,
    VMInfo,
)
from pyro_mcp._pyro import Pyro
from pyro_mcp._server import Server, create_server
from pyro_mcp._stream import Stream
from pyro_mcp._vm import VM

__all__ = [
    "VM",
    "AllowWith",
    "AsyncPyro",
    "AsyncStream",
    "AsyncVM",
    "CallInterruptedError",
    "Cleanup",
    "CommandFailedError",
    "DeadlineReachedError",
    "DoctorReport",
    "Environment",
    "EnvironmentUnavailableError",
    "ExecOutcome",
    "HostUnsupportedError",
    "InternalError",
    "InvalidInputError",
    "NetworkInfo",
    "NetworkPin",
    "NetworkRefusal",
    "NoSpaceError",
    "NotAvailableError",
    "Output",
    "PruneReport",
    "PulledEnvironment",
    "Pyro",
    "PyroError",
    "ReapReport",
    "RunInfo",
    "RunList",
    "RunLog",
    "RunOutcome",
    "Server",
    "Stream",
    "TooManyVMsError",
    "UnknownEnvironmentError",
    "UnknownVMError",
    "VMExpiredError",
    "VMInfo",
    "VMLostError",
    "VMStartError",
    "WrongVMStateError",
    "__version__",
    "create_server",
]
