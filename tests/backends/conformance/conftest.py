"""The table of the suite: which backend passed how many cases."""

from collections import Counter

import pytest

from tests.backends.conformance.registry import RUNTIMES

OUTCOMES = ("passed", "failed", "skipped")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print one row for each backend, and why a whole one was skipped."""
    counts = {name: Counter[str]() for name in RUNTIMES}
    reasons = dict[str, str]()
    for outcome in (*OUTCOMES, "error"):
        for report in terminalreporter.getreports(outcome):
            case = report.nodeid.partition("::test_conformance[")[2]
            name = next((known for known in RUNTIMES if case.startswith(f"{known}-")), "")
            if name:
                counts[name]["failed" if outcome == "error" else outcome] += 1
                if outcome == "skipped":
                    reasons[name] = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
    if not any(counts.values()):
        return
    terminalreporter.section("conformance of sandbox backends")
    terminalreporter.line(f"{'backend':<14}" + "".join(f"{outcome:>9}" for outcome in OUTCOMES))
    for name, count in counts.items():
        why = "" if count["passed"] or count["failed"] else f"   {reasons.get(name, 'was not run')}"
        terminalreporter.line(f"{name:<14}" + "".join(f"{count[outcome]:>9}" for outcome in OUTCOMES) + why)
