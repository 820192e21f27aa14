"""The program that asks math-verify whether two answers are the same; a child of environments/rewards/maths.py.

A line of JSON in, [right, given], a line of JSON out, true or false. An expression may be made to take for ever, or to
want all memory, so this process has little of either for each question and simply dies of more.
"""

from __future__ import annotations

import json
import logging
import resource
import signal
import sys

CPU_SECONDS = 3.0
MEMORY_BYTES = 2 << 30


def main() -> None:
    """Answer until the input ends."""
    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable(logging.CRITICAL)  # it says at every call that it has no time limit of its own
    sys.set_int_max_str_digits(10_000)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    kinds = [LatexExtractionConfig()]

    def read(formula: str) -> list:
        return parse(f"${formula}$", kinds, fallback_mode="no_fallback", parsing_timeout=0)

    def same(right: str, given: str) -> bool:
        return verify(read(right), read(given), timeout_seconds=None)

    print(json.dumps("ready"), flush=True)  # noqa: T201
    for line in sys.stdin:
        # counts the CPU of this process, so a busy machine makes no right answer wrong
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        verdict = same(*json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(verdict), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
