"""The loop of OpenAI's Responses API: the model asks for commands, a VM runs them.

Usage: OPENAI_API_KEY=... python openai_responses.py [TASK]
(`OPENAI_BASE_URL` chooses another server that speaks the same protocol, `PYRO_EXAMPLE_MODEL` another model.)
"""

from __future__ import annotations

import json
import os
import sys

from openai import OpenAI
from openai.types.responses import FunctionToolParam, ResponseInputParam
from pyro_mcp import VM, Pyro

TURNS_MAX = 20

RUN_COMMAND: FunctionToolParam = {
    "type": "function",
    "name": "run_command",
    "description": "Run a shell command as root in a disposable Linux VM.",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"command": {"type": "string"}},
        "required": ["command"],
        "additionalProperties": False,
    },
}


def run_command(vm: VM, arguments: str) -> str:
    """Runs what the model asks for; what is wrong with that is for the model to read."""
    try:
        outcome = vm.exec(json.loads(arguments)["command"], timeout_seconds=120)
    except (ValueError, KeyError) as error:
        return json.dumps({"error": str(error)})
    return json.dumps({key: outcome[key] for key in ("stdout", "stderr", "exit_code", "timed_out")})


def main(task: str, environment: str = "debian:12") -> str:
    client = OpenAI()
    model = os.environ.get("PYRO_EXAMPLE_MODEL", "gpt-5")
    conversation: ResponseInputParam = [{"role": "user", "content": task}]
    with Pyro().vm(environment, ttl_seconds=1800) as vm:
        for _ in range(TURNS_MAX):
            response = client.responses.create(model=model, input=conversation, tools=[RUN_COMMAND])
            calls = [item for item in response.output if item.type == "function_call"]
            if not calls:
                return response.output_text
            for call in calls:
                print(f"$ {call.arguments}", file=sys.stderr)
                conversation.append(
                    {
                        "type": "function_call",
                        "call_id": call.call_id,
                        "name": call.name,
                        "arguments": call.arguments,
                    }
                )
                conversation.append(
                    {
                        "type": "function_call_output",
                        "call_id": call.call_id,
                        "output": run_command(vm, call.arguments),
                    }
                )
    return "the model did not come to an end"


if __name__ == "__main__":
    words = sys.argv[1:] + ["How many packages are installed in your VM?", "debian:12"][len(sys.argv) - 1 :]
    print(main(*words))
