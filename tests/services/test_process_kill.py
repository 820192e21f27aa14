"""`natgym process` that is killed in the middle: the same command makes the rest, no row twice, none lost."""

import json
import signal
import subprocess
import time
from pathlib import Path

from core.settings import child_environ
from tests.services.small_policy import NATGYM, ROOT

ARGUMENTS = ("process", "reverse_text", "--out", "rows.jsonl", "--groups", "24", "--group-size", "2", "--concurrent", "2")


def test_a_killed_process_is_taken_up_without_a_double_or_lost_row(tmp_path: Path):
    environ, out = child_environ(PYTHONPATH=str(ROOT)), tmp_path / "rows.jsonl"
    with subprocess.Popen([*NATGYM, *ARGUMENTS], cwd=tmp_path, env=environ) as killed:
        deadline = time.monotonic() + 60
        while killed.poll() is None and time.monotonic() < deadline and not (out.is_file() and out.stat().st_size):
            time.sleep(0.02)
        killed.send_signal(signal.SIGKILL)
    assert out.stat().st_size, "no row within 60 s"
    done = subprocess.run([*NATGYM, *ARGUMENTS], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    ids = sorted(json.loads(line)["id"] for line in out.read_text().splitlines())
    assert ids == [f"reverse_text-train-{group:06d}-{one}" for group in range(24) for one in (0, 1)]
