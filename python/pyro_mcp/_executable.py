"""Where the `pyro` executable of this installation is."""

from __future__ import annotations

import functools
import sysconfig
from pathlib import Path

from pyro_mcp._errors import HostUnsupportedError

NAME = "pyro"


@functools.cache
def find() -> Path:
    """The executable that was installed together with this package.

    It lies where the installer put it, whatever the scheme: a virtual environment, `--user`, `--target`. So
    no other `pyro` that happens to be in `PATH` is taken for it.
    """
    for candidate in _candidates():
        if candidate.is_file():
            return candidate.resolve()
    raise HostUnsupportedError(
        f"the `{NAME}` executable of this package is not where it was installed",
        "host_unsupported",
        (),
        ("install it again: `pip install --force-reinstall pyro-mcp`",),
    )


def _candidates() -> list[Path]:
    # Here, because it takes longer to import than all of pyro.
    from importlib import metadata

    # `pip install --target` writes down a place where it is not.
    candidates = [Path(__file__).parent.parent / "bin" / NAME]
    try:
        files = metadata.files("pyro-mcp") or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == NAME and file.parent.name == "bin":
            candidates.append(Path(str(file.locate())))
    candidates.append(Path(sysconfig.get_path("scripts")) / NAME)
    return candidates
