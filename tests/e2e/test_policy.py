"""`natgym policy` makes a policy from nothing: real episodes, a tokenizer, weights."""

import subprocess
import sys
from pathlib import Path

import pytest

from tool_call_parsers.rendering import Renderer
from trainer.inference.local_engine import LocalEngine

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.nat, pytest.mark.slow]


async def test_the_command_makes_a_policy_that_can_be_served(tmp_path):
    out = tmp_path / "policy"
    command = [sys.executable, "-m", "services.cli", "policy", "--episodes", "6", "--steps", "2"]
    where = ["--out", str(out), "--work", str(tmp_path / "work")]
    made = subprocess.run([*command, *where], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert made.returncode == 0, made.stderr
    assert len((tmp_path / "work" / "demonstrations.jsonl").read_text().splitlines()) == 6
    engine = LocalEngine.load(out)
    try:
        assert engine.max_length > len(Renderer.from_directory(out).render([{"role": "user", "content": "miles"}]))
    finally:
        await engine.aclose()
