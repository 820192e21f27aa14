"""What a policy reads of its own test run: short, the same every time, and without a path outside of its workspace."""

import re
from collections.abc import Mapping

MAX_CHARACTERS = 200
PATHS = re.compile(r"(?<![\w.)\]])/(?:[\w.\-]+/)*?((?:(?:nat_tools|tests)/)?[\w.\-]+)(?![\w.\-/])")
ADDRESSES = re.compile(r" at 0x[0-9a-f]+")


def summarise(outcomes: Mapping[str, str], errors: Mapping[str, str]) -> str:
    """`2 passed`, or `1 failed, 1 passed: test_x: ValueError: ...` with the first failure, or `no tests found`."""
    if not outcomes:
        return "no tests found"
    counts = [(name, sum(outcome == name for outcome in outcomes.values())) for name in ("failed", "passed", "skipped")]
    text = ", ".join(f"{count} {name}" for name, count in counts if count)
    failed = next((test for test, outcome in outcomes.items() if outcome == "failed"), None)
    if failed is None:
        return text
    short = failed.rpartition("::")[2].rpartition("/")[2].removesuffix(".py")
    return f"{text}: {short}: {clean(errors.get(failed, ''))}"[:MAX_CHARACTERS]


def clean(error: str) -> str:
    """An error in one line, without addresses and without foreign paths."""
    return ADDRESSES.sub("", PATHS.sub(r"\1", " ".join(error.split())))
