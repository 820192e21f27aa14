"""Opens Tinker services and says how each attempt ended.

Each has a process of its own: the SDK goes on trying in the back, and lets nobody else in while one has not been answered.
Arguments: a JSON list of [address, key, seconds]. Answers a JSON list of [error, message, seconds it took].
"""

import json
import sys
import time
from multiprocessing import get_context

import tinker  # noqa: F401 once, before the processes part
from pydantic import SecretStr

from core.errors import NatgymError
from trainer.engines.tinker_service import TinkerService


def attempt(case: tuple[str, str | None, float]) -> tuple[str, str, float]:
    address, key, seconds = case
    started = time.monotonic()
    try:
        TinkerService(address, SecretStr(key) if key else None, seconds)
    except NatgymError as error:
        return type(error).__name__, str(error), time.monotonic() - started
    return "", "", time.monotonic() - started


if __name__ == "__main__":
    cases = json.loads(sys.argv[1])
    with get_context("fork").Pool(len(cases), maxtasksperchild=1) as pool:
        json.dump(pool.map(attempt, cases, chunksize=1), sys.stdout)
