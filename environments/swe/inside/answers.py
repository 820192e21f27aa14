"""Calls functions of a repository for somebody else: this process runs what the policy wrote, and decides nothing.

A line of JSON in: {"module", "name"}, and for a call {"args", "kwargs"}. A line out: {"value"}, {"callable": true},
{"missing": true}, or {"error", "message"}. The repository's folder is the first argument.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
from pathlib import Path

from environments.swe.inside.plain import NotPlain, decode, encode

CPU_SECONDS = 4


def answer(question: dict) -> dict:
    """What a repository says to one question."""
    try:
        module = importlib.import_module(question["module"])
        if not hasattr(module, question["name"]):
            return {"missing": True}
        found = getattr(module, question["name"])
        if "args" in question:
            return {"value": encode(found(*decode(question["args"]), **decode(question["kwargs"])))}
        return {"callable": True} if callable(found) else {"value": encode(found)}
    except NotPlain as error:
        return {"error": "TypeError", "message": f"returned an object of type {error}, expected plain values"}
    except BaseException as error:
        return {"error": type(error).__name__, "message": str(error)[:500]}


def main() -> None:
    """Answer until the input ends."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    questions, answers = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w")
    silent = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(silent, standard)
    sys.path.insert(0, str(Path(sys.argv[1]).resolve()))
    for line in questions:
        answers.write(json.dumps(answer(json.loads(line))) + "\n")
        answers.flush()
