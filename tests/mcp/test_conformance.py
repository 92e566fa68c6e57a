"""The official conformance suite of the protocol."""

from pathlib import Path

import node
from host import Host
from server import HttpServer
from token_proxy import TokenProxy

CONFORMANCE = "@modelcontextprotocol/conformance/dist/index.js"

EXPECTED_FAILURES = Path(__file__).with_name("conformance.yml")


def test_every_scenario_passes_that_is_not_expected_to_fail(host: Host, tmp_path: Path) -> None:
    proxy = TokenProxy()
    server = HttpServer(host, "--allow-origin", f"http://127.0.0.1:{proxy.port}")
    assert server.token is not None
    proxy.start(server.port, server.token)
    try:
        outcome = node.run(
            CONFORMANCE,
            "server",
            *("--url", f"http://127.0.0.1:{proxy.port}/mcp"),
            *("--suite", "all"),
            *("--expected-failures", str(EXPECTED_FAILURES)),
            *("--output-dir", str(tmp_path)),
            directory=host.directory,
        )
    finally:
        proxy.close()
        server.close()
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
