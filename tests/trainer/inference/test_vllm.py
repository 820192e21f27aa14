"""vLLM servers behind the engine: its routes and fields, spoken by a server that samples a real model."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from core.errors import TrainingError
from tests.trainer.inference.serving import StandIn, two_of
from tests.trainer.inference.tiny import Reference, some_tokens
from trainer.inference.base import GenerationRequest, QueueFull, SamplingParams, UnusableRequest
from trainer.inference.external import ExternalConfig, ExternalEngine, ServerKind
from trainer.inference.local_engine import LocalEngine, LocalEngineConfig
from trainer.weights import WeightFormat

PROMPT = some_tokens(40)


class CompletionRequest(BaseModel):
    """The fields of vLLM 0.33 that are used; vLLM passes over those that it does not know, which a typo would be."""

    model_config = ConfigDict(extra="forbid")

    prompt: list[int]
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    stop: list[str]
    stop_token_ids: list[int]
    ignore_eos: bool
    logprobs: int
    return_token_ids: bool
    return_weight_versions: bool
    cache_salt: str
    seed: int | None = None
    session_id: str | None = None


class VllmServer(StandIn):
    """Completions, and the routes of VLLM_SERVER_DEV_MODE=1 by which weights are reloaded from a directory.

    While it is paused it takes requests and answers none, as `mode=keep` does.
    """

    def __init__(self, model_dir: Path) -> None:
        self.salts: list[str] = []
        self.label = "default"
        self.full = False
        self._path = model_dir
        self._running = asyncio.Event()
        self._running.set()
        commands = ("/pause", "/collective_rpc", "/update_weight_version", "/resume")
        routes = [Route(path, self._command, methods=["POST"]) for path in commands]
        routes += [Route("/v1/completions", self._complete, methods=["POST"]), Route("/health", lambda _: Response())]
        super().__init__(Starlette(routes=routes), LocalEngine.load(model_dir, LocalEngineConfig(max_batch=8)))

    async def _complete(self, request: Request) -> Response:
        if self.full:
            return JSONResponse({"error": {"message": "queue overflow"}}, status_code=503)
        asked = CompletionRequest.model_validate(await request.json())
        self.salts.append(asked.cache_salt)
        await self._running.wait()
        params = SamplingParams(
            max_tokens=asked.max_tokens, temperature=asked.temperature, top_p=asked.top_p, seed=asked.seed,
            stop_token_ids=tuple(asked.stop_token_ids),
        )  # fmt: skip
        made = await self.engine.generate(GenerationRequest(prompt_ids=tuple(asked.prompt), params=params))
        span = {"version": self.label, "start": 0, "end": len(made.token_ids)}
        tokens = [f"token_id:{token}" for token in made.token_ids]
        logprobs = {"text_offset": [], "token_logprobs": list(made.logprobs), "tokens": tokens, "top_logprobs": []}
        choice = {
            "index": 0, "text": "", "logprobs": logprobs, "finish_reason": made.finish_reason.value, "stop_reason": None,
            "token_ids": list(made.token_ids), "prompt_token_ids": asked.prompt, "weight_versions": [span],
        }  # fmt: skip
        usage = {"prompt_tokens": len(asked.prompt), "total_tokens": 0, "completion_tokens": 0, "prompt_tokens_details": None}
        return JSONResponse({"id": "cmpl-1", "object": "text_completion", "model": "m", "choices": [choice], "usage": usage})

    async def _command(self, request: Request) -> Response:
        self.commands.append(request.url.path.removeprefix("/") + (f"?{request.url.query}" if request.url.query else ""))
        body = await request.json()
        match request.url.path:
            case "/pause":
                self._running.clear()
                return JSONResponse({"status": "paused"})
            case "/collective_rpc":
                assert body["method"] == "reload_weights"
                try:
                    self._weights = load_file(Path(body["kwargs"]["weights_path"]) / "model.safetensors")
                    await self.engine.publish(self._weights, 0)
                except TrainingError as error:
                    return JSONResponse({"error": {"message": str(error)}}, status_code=500)
                return JSONResponse({"results": [None]})
            case "/update_weight_version":
                self.label = body["new_version"]
                return JSONResponse({"success": True, "new_version": self.label})
        self._running.set()
        return JSONResponse({"status": "resumed"})


@pytest.fixture
async def servers(model_dir: Path) -> AsyncIterator[list[VllmServer]]:
    async with two_of(lambda: VllmServer(model_dir)) as made:
        yield made


def external_of(servers: list[VllmServer], model_dir: Path, weights: Path, *, processed: bool = True) -> ExternalEngine:
    config = ExternalConfig(
        kind=ServerKind.VLLM, urls=tuple(one.url for one in servers), weights=weights,
        weight_format=WeightFormat.FLOAT32, processed_logprobs=processed,
    )  # fmt: skip
    return ExternalEngine(config, model_dir)


@pytest.fixture
async def external(servers: list[VllmServer], model_dir: Path, tmp_path: Path) -> AsyncIterator[ExternalEngine]:
    engine = external_of(servers, model_dir, tmp_path)
    yield engine
    await engine.aclose()


def ask(session_id: str | None = None, **params: object) -> GenerationRequest:
    settings = SamplingParams.model_validate({"max_tokens": 6, **params})
    return GenerationRequest(prompt_ids=PROMPT, params=settings, session_id=session_id)


async def test_ids_and_logprobs_come_as_they_were_sampled(external: ExternalEngine, reference: Reference):
    made = await external.generate(ask(temperature=0.7, seed=3))
    expected = reference.logprobs(PROMPT, made.token_ids, 0.7)
    assert list(made.logprobs) == pytest.approx(expected.tolist(), abs=1e-5)
    assert (made.policy_version, len(made.token_ids)) == (0, 6)


async def test_a_session_stays_with_its_server(external: ExternalEngine, servers: list[VllmServer]):
    for _ in range(4):
        await external.generate(ask("episode", max_tokens=1))
    assert sorted(len(one.salts) for one in servers) == [0, 4]


async def test_published_weights_reach_every_server_and_their_label_comes_back(
    external: ExternalEngine, servers: list[VllmServer], other_model_dir: Path, other_reference: Reference
):
    await external.publish(load_file(other_model_dir / "model.safetensors"), 4)
    wanted = ["pause?mode=keep", "collective_rpc", "update_weight_version", "resume"]
    assert [one.commands for one in servers] == [wanted] * 2
    for number in range(4):
        made = await external.generate(ask(f"episode-{number}"))
        assert made.policy_version == 4
        expected = other_reference.logprobs(PROMPT, made.token_ids)
        assert list(made.logprobs) == pytest.approx(expected.tolist(), abs=1e-5)


async def test_no_request_is_dropped_by_a_publication_and_none_shares_a_cache_across_it(
    external: ExternalEngine, servers: list[VllmServer], other_model_dir: Path
):
    await external.generate(ask("episode"))
    running = [asyncio.create_task(external.generate(ask(f"episode-{number}", max_tokens=200))) for number in range(6)]
    async with asyncio.timeout(30):
        while sum(len(one.salts) for one in servers) < 7:
            await asyncio.sleep(0.001)
    publishing = asyncio.create_task(external.publish(load_file(other_model_dir / "model.safetensors"), 1))
    async with asyncio.timeout(30):
        while not all(one.commands for one in servers):
            await asyncio.sleep(0.001)
    meanwhile = [asyncio.create_task(external.generate(ask(f"late-{number}"))) for number in range(4)]
    await publishing
    after = await external.generate(ask("episode"))
    assert [len(one.token_ids) for one in await asyncio.gather(*running)] == [200] * 6
    assert [len(one.token_ids) for one in await asyncio.gather(*meanwhile)] == [6] * 4
    assert after.policy_version == 1
    salts = [salt for one in servers for salt in one.salts]
    assert salts.count("version-0") == 7
    own = [salt for salt in salts if not salt.startswith("version-")]
    assert len(set(own)) == len(own)


async def test_weights_of_another_model_are_refused_and_the_server_goes_on(
    external: ExternalEngine, servers: list[VllmServer], other_model_dir: Path
):
    weights = load_file(other_model_dir / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"][:-1].contiguous()
    with pytest.raises(TrainingError, match="collective_rpc answered 500"):
        await external.publish(weights, 5)
    assert all(one.commands[-1] == "resume" for one in servers)
    assert external.policy_version == 0
    assert len((await external.generate(ask())).token_ids) == 6


async def test_a_full_server_is_passed_over_and_two_ask_to_come_back(external: ExternalEngine, servers: list[VllmServer]):
    servers[0].full = True
    for number in range(4):
        await external.generate(ask(f"episode-{number}", max_tokens=1))
    servers[1].full = True
    with pytest.raises(QueueFull):
        await external.generate(ask())
    assert sorted(await external.healthy()) == sorted(one.url for one in servers)


@pytest.mark.parametrize("params", [{"temperature": 0.7}, {"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.1}])
async def test_logprobs_of_another_distribution_are_refused(
    servers: list[VllmServer], model_dir: Path, tmp_path: Path, params: dict[str, float]
):
    engine = external_of(servers, model_dir, tmp_path, processed=False)
    with pytest.raises(UnusableRequest, match="--logprobs-mode processed_logprobs"):
        await engine.generate(ask(**params))
    assert len((await engine.generate(ask())).token_ids) == 6
    await engine.aclose()
