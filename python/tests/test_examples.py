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
ROOT = EXAMPLES.parent.parent

GUIDES = {"README.md": 1, "docs/first-run.md": 1, "docs/python.md": 7}
"""The documents that show Python, and how many blocks of it."""


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


def blocks(document: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", document.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("document", GUIDES)
def test_every_block_of_the_guides_runs(pyro: Pyro, tmp_path: Path, document: str):
    script = tmp_path / "guide.py"
    script.write_text("\n".join(blocks(ROOT / document)))
    example(str(script))


def test_every_document_that_shows_python_is_a_guide():
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    counts = {str(path.relative_to(ROOT)): len(blocks(path)) for path in documents}
    assert {path: count for path, count in counts.items() if count > 0} == GUIDES


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
