"""Send the rollout API what a fuzzer makes of its schema: requests that are nearly right, and requests that are not.

    python -m benchmarks.rollout_api_fuzz [--requests 100000] [--seed N]

Ends with how often each status was the answer, and fails at the first answer of 500 or more that is not a refusal.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import schemathesis
from hypothesis import HealthCheck, Phase
from schemathesis import GenerationMode

from benchmarks.rollout_api_servers import our_server
from services.rollout_api.openapi import openapi

AT_ONCE = 500  # examples; hypothesis keeps in memory what it has made since it began
QUIET = hypothesis.settings(
    deadline=None, database=None, phases=(Phase.generate,), suppress_health_check=list(HealthCheck), print_blob=False
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="natgym-fuzz-") as folder, our_server(Path(folder)) as server:
        statuses = fuzz(f"http://127.0.0.1:{server.port}", openapi(), arguments.requests, arguments.seed)
    print(f"{sum(statuses.values())} requests:", ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items())))


def fuzz(url: str, document: dict, requests: int, seed: int) -> Counter[int]:
    """Send about that many requests to the API at `url`; how often each status was the answer.

    Raises AssertionError for a status of 500 or more other than 503 and 507, and for a request without an answer.
    """
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=url)
    statuses: Counter[int] = Counter()
    every = list(targets(schema))
    each = -(-requests // len(every))
    for number, (operation, mode) in enumerate(every):
        for start in range(0, each, AT_ONCE):
            # a seed of its own, so that no part of any operation repeats another one
            _send(operation, mode, min(AT_ONCE, each - start), (seed * len(every) + number) * requests + start, statuses)
    return statuses


def targets(schema: schemathesis.BaseSchema) -> Iterator[tuple[schemathesis.APIOperation, GenerationMode]]:
    """Every operation, once with what its schema allows and once with what it does not."""
    for result in schema.get_all_operations():
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            yield result.ok(), mode


def _send(operation: schemathesis.APIOperation, mode: GenerationMode, count: int, seed: int, statuses: Counter[int]) -> None:
    @hypothesis.seed(seed)
    @hypothesis.settings(QUIET, max_examples=count)
    @hypothesis.given(operation.as_strategy(generation_mode=mode))
    def send(case: schemathesis.Case) -> None:
        if isinstance(case.query, dict):
            case.query.pop("wait_seconds", None)  # nothing here is worth waiting for
        if isinstance(case.body, dict) and "wait_seconds" in case.body:
            case.body["wait_seconds"] = 0
        answer = case.call(timeout=60)
        statuses[answer.status_code] += 1
        assert answer.status_code < 500 or answer.status_code in (503, 507), (
            f"{answer.status_code} for {case.as_curl_command()}"
        )

    send()


if __name__ == "__main__":
    main()
