"""Where Atropos's own code is installed, and how tests run it: as processes, never imported here."""

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PYTHON = ROOT / ".venv-atropos/bin/python"
GIVEN = 'exec 3<&"$1"; shift; export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@"'
"""For bash: hands the socket of that descriptor to a command, as systemd does."""
MISSING = "Atropos's own clients are not installed: make atropos"

needs_atropos = pytest.mark.skipif(not (ROOT / ".venv-atropos/.ready").exists(), reason=MISSING)


def site_packages() -> Path:
    """Where `atroposlib` and `example_trainer` lie."""
    return next((ROOT / ".venv-atropos/lib").glob("python*/site-packages"))


def environ(**more: str) -> dict[str, str]:
    """Without a network, a GPU or an account."""
    quiet = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}
    return {**os.environ, **quiet, "PYTHONDONTWRITEBYTECODE": "1", **more}


@contextmanager
def running(command: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen]:
    """A process whose output goes to a file, ended at the end; its temporary files are beside that file: W&B leaves some."""
    beside = {**(env or environ()), "TMPDIR": str(log.parent)}
    with log.open("wb") as output:
        process = subprocess.Popen([*map(str, command)], stdout=output, stderr=output, env=beside, cwd=log.parent)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
