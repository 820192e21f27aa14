"""Figures of record: what was measured, on which machine, when, at which commit."""

import argparse
import datetime
import json
import os
import platform
import subprocess
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, str | int]:
    """The machine in the words that matter for a figure."""
    names = [line.split(":", 1)[1].strip() for line in _read("/proc/cpuinfo") if line.startswith("model name")]
    memory = next((int(line.split()[1]) // 2**20 for line in _read("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": memory,
        "python": platform.python_version(),
        "load_average": f"{os.getloadavg()[0]:.2f}",
    }


def write_record(name: str, figures: dict) -> None:
    """Write benchmarks/results/NAME.json with date and commit."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    RESULTS.mkdir(exist_ok=True)
    body = json.dumps({"date": today, "commit": _commit(), **figures}, indent=2)
    (RESULTS / f"{name}.json").write_text(body + "\n", encoding="utf-8")


def write_rows(name: str, rows: dict[str, dict]) -> None:
    """The same where a run may measure some rows only: those of earlier runs stay. Each says its commit."""
    path = RESULTS / f"{name}.json"
    known = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else {}
    fresh = {row: {**figures, "commit": _commit()} for row, figures in rows.items()}
    write_record(name, {"machine": machine(), "rows": {**known, **fresh}})


def end_run(name: str, rows: dict[str, dict], arguments: argparse.Namespace) -> None:
    """What `--record` and `--json` ask for, when all rows are measured."""
    if arguments.record:
        write_rows(name, rows)
    if arguments.json:
        print(json.dumps(rows))


def _commit() -> str:
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()


def _read(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
