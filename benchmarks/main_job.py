"""The main job, measured: `natgym up` over several seeds, on this machine.

    python -m benchmarks.main_job --seeds 0 1 2 [--steps N] [--json]

Prints the held-out figures before and after training with the minutes that it took, seconds per step by phase, and
the peak memory of each process. The bars are a success rate of 30 to 60 % before and at least 85 % after, within 20
minutes. `--record` writes benchmarks/results/main_job.json.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean

from benchmarks.record import machine, write_record

FIGURES = ("success_rate", "tool_generation", "integration", "workflow", "turns")
SUCCESS_BAR, MINUTES_BAR = 0.85, 20.0


def main() -> None:
    arguments = _parse()
    runs = [_run(seed, arguments) for seed in arguments.seeds]
    _print_figures(runs)
    _print_phases(runs)
    rows = _rows(runs)
    if arguments.record:
        write_record("main_job", {"machine": machine(), "rows": rows, "runs": runs})
    if arguments.json:
        print(json.dumps(rows))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="steps of each run; the project's default where left out")
    parser.add_argument("--out", type=Path, default=Path("runs/main_job"))
    parser.add_argument("--reuse", action="store_true", help="read runs that are already in --out")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/main_job.json")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    return parser.parse_args()


def _run(seed: int, arguments: argparse.Namespace) -> dict:
    """One `natgym up`; its summary with the seed in it."""
    out = arguments.out / f"seed-{seed}"
    if not (arguments.reuse and (out / "summary.json").is_file()):
        command = [sys.executable, "-m", "services.cli", "up", "--seed", str(seed), "--out", str(out)]
        command += ["--steps", str(arguments.steps)] if arguments.steps else []
        subprocess.run(command, check=True)
    return {"seed": seed, **json.loads((out / "summary.json").read_text(encoding="utf-8"))}


def _print_figures(runs: list[dict]) -> None:
    print(f"\n{'seed':>4} {'minutes':>8}  " + "  ".join(f"{name:>22}" for name in FIGURES))
    for run in runs:
        cells = [_change(run["before"][name], run["after"][name], name) for name in FIGURES]
        print(f"{run['seed']:>4} {run['seconds'] / 60:8.1f}  " + "  ".join(f"{cell:>22}" for cell in cells))


def _change(before: dict, after: dict, name: str) -> str:
    if name == "turns":
        return f"{before['mean']:.1f} -> {after['mean']:.1f}"
    return f"{before['mean']:.0%} -> {after['mean']:.0%} [{after['low']:.0%}, {after['high']:.0%}]"


def _print_phases(runs: list[dict]) -> None:
    steps = [run["seconds_per_step"] for run in runs]
    print("\nseconds per training step: " + ", ".join(f"{name} {fmean(step[name] for step in steps):.2f}" for name in steps[0]))
    peaks = sorted({name for run in runs for name in run["peak_mib"]})
    print("peak memory, MiB: " + ", ".join(f"{name} {max(run['peak_mib'].get(name, 0) for run in runs):.0f}" for name in peaks))


def _rows(runs: list[dict]) -> dict[str, dict]:
    """The figures against their bars; the policy before training is the peer."""
    before = fmean(run["before"]["success_rate"]["mean"] for run in runs)
    worst = min(run["after"]["success_rate"]["mean"] for run in runs)
    minutes = max(run["seconds"] for run in runs) / 60
    return {
        "held-out success after, worst seed": _row(worst, before, SUCCESS_BAR, "higher", "share"),
        "minutes, slowest seed": _row(minutes, None, MINUTES_BAR, "lower", "min"),
    }


def _row(ours: float, peer: float | None, bar: float, better: str, unit: str) -> dict:
    return {
        "ours": round(ours, 4),
        "peer": None if peer is None else round(peer, 4),
        "ratio": None if not peer else round(ours / peer, 3),
        "bar": bar,
        "better": better,
        "unit": unit,
    }


if __name__ == "__main__":
    main()
