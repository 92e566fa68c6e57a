"""`python -m pyro_mcp` is `pyro`."""

from __future__ import annotations

import os
import sys

from pyro_mcp import _executable

if __name__ == "__main__":
    executable = _executable.find()
    os.execv(executable, [str(executable), *sys.argv[1:]])
