"""A LangChain agent that runs what it likes, in a VM of its own.

The VM lasts as long as the conversation, so files that one call writes are there for the next.

Usage: OPENAI_API_KEY=... python langchain_tool.py [TASK]
(`OPENAI_BASE_URL` chooses another server that speaks the same protocol, `PYRO_EXAMPLE_MODEL` another model.)
"""

from __future__ import annotations

import os
import sys
from typing import Any

from langchain.agents import create_agent
from langchain.tools import BaseTool, tool
from langchain_openai import ChatOpenAI
from pyro_mcp import VM, Pyro

OUTPUT_CHARACTERS_MAX = 8000
"""More would fill the model's context; `logs` has the rest."""


def shell(vm: VM) -> BaseTool:
    """A tool that runs commands in a VM."""

    @tool
    def run_command(command: str) -> dict[str, Any]:
        """Runs a shell command as root in a disposable Linux VM, and gives its output and exit code."""
        outcome = vm.exec(command, timeout_seconds=120)
        return {
            "stdout": outcome["stdout"][-OUTPUT_CHARACTERS_MAX:],
            "stderr": outcome["stderr"][-OUTPUT_CHARACTERS_MAX:],
            "exit_code": outcome["exit_code"],
            "timed_out": outcome["timed_out"],
        }

    return run_command


def main(task: str, environment: str = "debian:12") -> str:
    model = ChatOpenAI(model=os.environ.get("PYRO_EXAMPLE_MODEL", "gpt-5"))
    with Pyro().vm(environment, ttl_seconds=1800) as vm:
        agent: Any = create_agent(model, tools=[shell(vm)])
        state = agent.invoke({"messages": [{"role": "user", "content": task}]})
    return str(state["messages"][-1].text)


if __name__ == "__main__":
    words = sys.argv[1:] + ["How many packages are installed in your VM?", "debian:12"][len(sys.argv) - 1 :]
    print(main(*words))
