"""The HTTP tests of atroposlib 0.4.0, as they are installed, against this rollout API."""

import subprocess
from pathlib import Path

from tests.services.rollout_api.harness import ApiProcess
from tests.services.rollout_api.stock_atropos import PYTHON, environ, needs_atropos, site_packages

SUITE = ("test_api_legacy.py", "test_api_messages_handling.py", "test_api_compression.py", "api_test_utils.py")
TESTS = 36


@needs_atropos
def test_the_http_tests_of_atropos_pass(tmp_path: Path):
    with ApiProcess(tmp_path / "q") as api:
        port = api.url.rpartition(":")[2]
        suite = tmp_path / "suite"
        suite.mkdir()
        for name in SUITE:
            text = (site_packages() / "atroposlib/tests" / name).read_text()
            text = text.replace("localhost:8000", f"127.0.0.1:{port}").replace('"8000"', f'"{port}"')
            # they start a server of their own, which finds its port taken and ends; all requests go to this one
            (suite / name).write_text(text.replace("atroposlib.tests.api_test_utils", "api_test_utils"))
        command = [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", suite]
        done = subprocess.run(command, capture_output=True, text=True, env=environ(), cwd=suite)
    assert done.returncode == 0, done.stdout[-4000:]
    assert f"{TESTS} passed" in done.stdout
