"""Requests of a fuzzer that knows the schema: refused or served, never a failure of ours."""

import asyncio
from pathlib import Path

import httpx
import pytest

pytest.importorskip("schemathesis")

from benchmarks.rollout_api_fuzz import fuzz
from services.rollout_api.openapi import OPERATIONS, openapi
from tests.services.rollout_api.harness import serving

REQUESTS = 120


async def test_no_request_breaks_the_server(tmp_path: Path):
    async with serving(tmp_path / "q") as url, httpx.AsyncClient(base_url=url, trust_env=False) as http:
        document = (await http.get("/v1/openapi.json")).json()
        statuses = await asyncio.to_thread(fuzz, url, document, REQUESTS, 5)
        ready = await http.get("/ready")
    assert ready.status_code == 200
    assert sum(statuses.values()) > REQUESTS / 4
    assert statuses[422] > 0
    assert statuses[200] + statuses[201] > 0


def test_every_path_of_the_document_says_what_it_answers():
    paths = openapi()["paths"]
    assert isinstance(paths, dict)
    assert set(paths) == {operation.path for operation in OPERATIONS}
