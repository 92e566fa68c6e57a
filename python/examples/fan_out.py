"""Twenty VMs at once, a few of them at a time, each with a task of its own.

Usage: python fan_out.py [ENVIRONMENT] [VMS] [AT_ONCE]
"""

from __future__ import annotations

import asyncio
import sys
import time

from pyro_mcp import AsyncPyro


async def main(environment: str, vms: int, at_once: int) -> None:
    pyro = AsyncPyro()
    turn = asyncio.Semaphore(at_once)

    async def square(number: int) -> int:
        async with turn:
            outcome = await pyro.run_in_vm(
                environment=environment,
                command="read n; echo $((n * n))",
                stdin=f"{number}\n",
                timeout_seconds=60,
                mem_mib=1024,
            )
        return int(outcome["stdout"])

    started = time.monotonic()
    squares = await asyncio.gather(*(square(number) for number in range(vms)))
    took = time.monotonic() - started
    print(*squares)
    print(f"{vms} VMs in {took:.1f} s, {at_once} at a time")


if __name__ == "__main__":
    words = sys.argv[1:] + ["debian:12", "20", "4"][len(sys.argv) - 1 :]
    asyncio.run(main(words[0], int(words[1]), int(words[2])))
