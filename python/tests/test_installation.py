"""The wheel: what is in it, and that it is what is tested."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import host
import pyro_mcp
from pyro_mcp import Pyro, _executable, _native, _options

PACKAGE = Path(pyro_mcp.__file__).parent


def test_what_is_tested_is_installed():
    assert PACKAGE.is_relative_to(sys.prefix)
    assert Path(_native.__file__ or "").name == "_native.abi3.so"
    assert (PACKAGE / "py.typed").exists()
    assert (PACKAGE / "_native.pyi").exists()


def test_there_is_one_version():
    versions = {pyro_mcp.__version__, metadata.version("pyro-mcp")}
    versions.add(host.cli("--version").stdout.split()[-1])
    assert versions == {"3.0.0"}


def test_the_executable_is_that_of_the_installation():
    executable = _executable.find()
    assert executable.is_relative_to(sys.prefix)
    assert executable.read_bytes()[:4] == b"\x7fELF"


def test_the_executable_is_found_where_pip_puts_it_for_a_target(tmp_path: Path):
    # As `pip install --target` does it.
    shutil.copytree(PACKAGE, tmp_path / "pyro_mcp")
    (tmp_path / "bin").mkdir()
    shutil.copy(_executable.find(), tmp_path / "bin" / "pyro")
    script = "from pyro_mcp import _executable; print(_executable.find())"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    outcome = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert Path(outcome.stdout.strip()) == (tmp_path / "bin" / "pyro").resolve()


def test_manual_pages_and_completions_are_where_programs_look_for_them():
    share = Path(sys.prefix) / "share"
    for name in [
        "man/man1/pyro.1",
        "man/man1/pyro-vm-exec.1",
        "bash-completion/completions/pyro",
        "zsh/site-functions/_pyro",
        "fish/vendor_completions.d/pyro.fish",
    ]:
        assert "pyro" in (share / name).read_text()


def test_the_module_is_the_executable():
    outcome = subprocess.run([sys.executable, "-m", "pyro_mcp", "--version"], capture_output=True, check=True)
    assert outcome.stdout == b"pyro 3.0.0\n"


def test_everything_public_is_documented():
    undocumented = [
        name for name in pyro_mcp.__all__ if not getattr(getattr(pyro_mcp, name), "__doc__", None)
    ]
    assert undocumented == []
    methods = [name for name in dir(Pyro) if not name.startswith("_") and not getattr(Pyro, name).__doc__]
    assert methods == []


def test_defaults_are_those_of_the_core():
    assert _native.DEFAULTS == {
        "vcpu_count": _options.VCPU_COUNT,
        "mem_mib": _options.MEM_MIB,
        "ttl_seconds": _options.TTL_SECONDS,
        "timeout_seconds": _options.TIMEOUT_SECONDS,
        "bytes_max": _options.FILE_BYTES_MAX,
    }
