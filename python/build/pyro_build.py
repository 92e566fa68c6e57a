"""The build backend: maturin's, with the `pyro` executable built first.

maturin packs an extension module and Python files. The executable goes into the wheel as data, with what it
writes about itself: manual pages and completions. All of it has to be there before maturin looks.

Settings: `profile` is cargo's, `release` by default; `compatibility` is maturin's, by default the wheel is
for hosts like this one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import maturin

Settings = dict[str, Any] | None

ROOT = Path(__file__).resolve().parents[2]
WHEEL_DATA = ROOT / "target" / "wheel-data"
SCRIPTS = WHEEL_DATA / "scripts"
# Below the directory with the executables' directory, which is where pyro looks for them.
GUEST_KERNELS = Path("share/pyro-mcp/guest-kernel")
# Below that directory as well, where `man` and shells look for what a program there has. Nothing else is in
# them.
PAGES = ("man", "bash-completion", "zsh", "fish")
PROFILE_DEFAULT = "release"


def build_wheel(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    return maturin.build_wheel(wheel_directory, _prepare(config_settings), metadata_directory)


def build_editable(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    return maturin.build_editable(wheel_directory, _prepare(config_settings), metadata_directory)


def build_sdist(sdist_directory: str, config_settings: Settings = None) -> str:
    SCRIPTS.mkdir(parents=True, exist_ok=True)
    return maturin.build_sdist(sdist_directory, config_settings)


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: Settings = None) -> str:
    SCRIPTS.mkdir(parents=True, exist_ok=True)
    return maturin.prepare_metadata_for_build_wheel(metadata_directory, config_settings)


prepare_metadata_for_build_editable = prepare_metadata_for_build_wheel
get_requires_for_build_wheel = maturin.get_requires_for_build_wheel
get_requires_for_build_editable = maturin.get_requires_for_build_editable
get_requires_for_build_sdist = maturin.get_requires_for_build_sdist


def _prepare(settings: Settings) -> dict[str, Any]:
    """Builds the executable, puts it where the wheel takes it from, and has maturin use the same profile."""
    settings = dict(settings or {})
    profile = settings.pop("profile", PROFILE_DEFAULT)
    cargo = os.environ.get("CARGO", "cargo")
    command = [cargo, "build", "--locked", "--package", "pyro-cli", "--profile", profile]
    subprocess.run(command, cwd=ROOT, check=True)
    SCRIPTS.mkdir(parents=True, exist_ok=True)
    target = _target(cargo)
    built = target / ("debug" if profile == "dev" else profile) / "pyro"
    # Not onto the old one, which somebody may be running.
    fresh = SCRIPTS / "pyro.new"
    shutil.copy2(built, fresh)
    fresh.replace(SCRIPTS / "pyro")
    _take_guest_kernels(target)
    _write_pages()
    arguments = ["--locked", "--profile", profile]
    compatibility = settings.pop("compatibility", None)
    if compatibility is not None:
        arguments += ["--compatibility", compatibility]
    settings.setdefault("build-args", arguments)
    return settings


def _take_guest_kernels(target: Path) -> None:
    """Puts the guest kernels into the wheel that `cargo xtask guest-kernel` has built.

    Where it has not, as on the host of somebody who installs from the sources, VMs boot Debian's kernel.
    """
    packed = WHEEL_DATA / "data" / GUEST_KERNELS
    shutil.rmtree(packed, ignore_errors=True)
    if (target / GUEST_KERNELS / "manifest.json").is_file():
        shutil.copytree(target / GUEST_KERNELS, packed)


def _write_pages() -> None:
    """Has the executable write its manual pages and completions into the wheel."""
    share = WHEEL_DATA / "data" / "share"
    for name in PAGES:
        # Pages of commands that there are no more would be packed as well.
        shutil.rmtree(share / name, ignore_errors=True)
    subprocess.run([SCRIPTS / "pyro", "internal", "write-pages", share], check=True)


def _target(cargo: str) -> Path:
    command = [cargo, "metadata", "--no-deps", "--format-version=1"]
    metadata = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    return Path(json.loads(metadata)["target_directory"])
