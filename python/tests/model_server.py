"""A stand-in for a model: a server on loopback that speaks OpenAI's protocols, and plays a script.

It asks for each command of the script, one by one, and then repeats the output of the last in its answer. So
a test sees in the answer that the real client carried a tool's result to the server.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@contextmanager
def model_server(commands: list[str]) -> Iterator[str]:
    """The address of a server that is there for a block."""
    handler = type("Handler", (_Handler,), {"commands": commands})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    serving.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        serving.join()


class _Handler(BaseHTTPRequestHandler):
    commands: list[str]

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = {"/v1/chat/completions": self._chat, "/v1/responses": self._responses}[self.path](request)
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing."""

    def _chat(self, request: dict[str, Any]) -> dict[str, Any]:
        assert [tool["function"]["name"] for tool in request["tools"]] == ["run_command"]
        results = [message["content"] for message in request["messages"] if message["role"] == "tool"]
        message: dict[str, Any] = {"role": "assistant", "content": None}
        if len(results) < len(self.commands):
            call = {"name": "run_command", "arguments": self._arguments(len(results))}
            message["tool_calls"] = [{"id": f"call_{len(results)}", "type": "function", "function": call}]
        else:
            message["content"] = f"The last command said: {results[-1]}"
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 0,
            "model": request["model"],
            "choices": [
                {
                    "index": 0,
                    "message": message,
                    "finish_reason": "stop" if message["content"] else "tool_calls",
                }
            ],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }

    def _responses(self, request: dict[str, Any]) -> dict[str, Any]:
        assert [tool["name"] for tool in request["tools"]] == ["run_command"]
        results = [item["output"] for item in request["input"] if item.get("type") == "function_call_output"]
        if len(results) < len(self.commands):
            output = {
                "type": "function_call",
                "id": f"fc_{len(results)}",
                "call_id": f"call_{len(results)}",
                "name": "run_command",
                "arguments": self._arguments(len(results)),
                "status": "completed",
            }
        else:
            text = f"The last command said: {results[-1]}"
            output = {
                "type": "message",
                "id": "msg_1",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": text, "annotations": []}],
            }
        return {
            "id": "resp_1",
            "object": "response",
            "created_at": 0,
            "model": request["model"],
            "status": "completed",
            "output": [output],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": request["tools"],
        }

    def _arguments(self, number: int) -> str:
        return json.dumps({"command": self.commands[number]})
