"""A stock ManagedServer of Atropos against the endpoint, in both shapes of /generate."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.services.rollout_api.stock_atropos import PYTHON, environ, needs_atropos
from tests.trainer.inference.serving import served
from tests.trainer.inference.tiny import Reference
from trainer.inference.local_engine import LocalEngine

SCRIPT = Path(__file__).with_name("stock_managed_server.py")


@needs_atropos
@pytest.mark.parametrize("kind", ["vllm", "sglang"])
async def test_it_tracks_exact_ids_and_logprobs(kind: str, engine: LocalEngine, model_dir: Path, reference: Reference):
    async with served(engine, model_dir) as client:
        url = str(client.base_url).rstrip("/")
        command = (str(PYTHON), str(SCRIPT), url, str(model_dir), kind)
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, env=environ())
        try:
            output, told = await asyncio.wait_for(process.communicate(), 120)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode == 0, told.decode()[-2000:]
    nodes = json.loads(output.splitlines()[-1])
    assert len(nodes) == 2
    for node in nodes:
        prompt_length = node["masked_tokens"].count(-100)
        prompt, completion = node["tokens"][:prompt_length], node["tokens"][prompt_length:]
        assert 1 <= len(completion) <= 6
        assert node["logprobs"][prompt_length:] == pytest.approx(reference.logprobs(prompt, completion).tolist(), abs=1e-5)
