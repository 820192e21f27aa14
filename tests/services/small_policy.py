"""A policy of the shipped shape with random weights, and natgym as a user starts it."""

import subprocess
import sys
from pathlib import Path

from core.settings import child_environ
from environments.base import Split
from environments.nat_agent.environment import NatAgent
from tool_call_parsers.rendering import Renderer

ROOT = Path(__file__).parent.parent.parent
NATGYM = (sys.executable, "-m", "services.cli")


def write_random_policy(directory: Path) -> Path:
    """A model directory with a tokenizer of a few tasks of nat_agent; it answers nonsense, quickly."""
    from trainer.sft import new_policy
    from trainer.tokenizer import build_tokenizer, save_tokenizer

    environment = NatAgent()
    tasks = environment.tasks(Split.TRAIN)[:20]
    save_tokenizer(build_tokenizer([text for task in tasks for text in environment.gold(task)], ["nat_tools"]), directory)
    new_policy(directory, Renderer.from_directory(directory)).save_pretrained(directory)
    return directory


def natgym(*arguments: str, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    environ = child_environ(PYTHONPATH=str(ROOT), **variables)
    return subprocess.run([*NATGYM, *arguments], cwd=cwd, env=environ, capture_output=True, text=True, timeout=300)
