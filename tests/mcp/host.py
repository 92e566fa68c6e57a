"""One `pyro` with directories of its own, as the command line and as a server."""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from family import Family

ROOT = Path(__file__).resolve().parents[2]

BASE = "debian:12-base"
"""The smallest environment: what it cannot do, these tests do not need."""

COMMAND_SECONDS_MAX = 600
"""How long the command line may take; the first one of all may have to build an environment."""


FAILED = 125
"""How the command line exits where pyro itself cannot do what was asked for."""


def executable() -> Path:
    """Find the `pyro` under test."""
    return Path(os.environ.get("PYRO", ROOT / "target/debug/pyro"))


def environment_cache() -> Path:
    """Find where environments and templates are kept from test to test."""
    default = ROOT / "target/test-cache"
    return Path(os.environ.get("PYRO_ENVIRONMENT_CACHE_DIR", default))


def clients() -> Path:
    """Find where the clients are installed."""
    return Path(os.environ.get("PYRO_TEST_CLIENTS", ROOT / "target/clients"))


class Host:
    """What several `pyro` of one test share."""

    def __init__(self, cache: Path | None = None) -> None:
        """Make the directories. Their names are short, because sockets are made below them."""
        self.directory = Path(tempfile.mkdtemp(prefix="pyro-mcp-"))
        self.state = self.directory / "state"
        self.log = self.directory / "log"
        self.cache = cache or environment_cache()
        self.family = Family(self.directory, self.state)
        self.log.touch()

    @property
    def variables(self) -> dict[str, str]:
        """Give the environment of every `pyro` of this test, and nothing of the user's own."""
        return {
            "HOME": str(self.directory),
            "PATH": os.environ["PATH"],
            "PYRO_ENVIRONMENT_CACHE_DIR": str(self.cache),
            "PYRO_STATE_DIR": str(self.state),
        }

    def serve(self, *options: str) -> list[str]:
        """Give the command line of a server."""
        return self.family.command(str(executable()), "mcp", "serve", *options)

    def json(self, *words: str, status: int = 0) -> Any:
        """Run `pyro` on the command line and give the document that it prints."""
        outcome = subprocess.run(
            self.family.command(str(executable()), *words),
            env=self.variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS_MAX,
            check=False,
        )
        assert outcome.returncode == status, f"pyro {' '.join(words)}: {outcome.stderr}"
        return json.loads(outcome.stdout)

    def vms(self) -> list[str]:
        """Ask the command line which VMs there are."""
        return [vm["vm_id"] for vm in self.json("vm", "list", "--json")["vms"]]

    def delete(self, vm_id: str) -> None:
        """Delete a VM on the command line."""
        self.json("vm", "delete", "--json", vm_id)

    def files(self) -> list[Path]:
        """Find what lies below the state directory; directories may stay."""
        return [path for path in self.state.rglob("*") if not path.is_dir()]

    def close(self) -> None:
        """Remove the directories."""
        self.family.close()
        shutil.rmtree(self.directory)
