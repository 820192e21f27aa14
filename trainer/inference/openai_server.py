"""The inference endpoint: OpenAI's chat and text completions, /generate, text to ids and back, models, health, metrics.

Who may listen and speak is the caller's to decide (address, bearer token); nothing here opens a socket.
"""

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from core.errors import NatgymError
from core.types import JsonObject
from tool_call_parsers.base import ToolCallParser
from tool_call_parsers.reader import CompletionReader
from tool_call_parsers.rendering import Renderer
from trainer.inference.base import EngineStats, InferenceEngine, QueueFull
from trainer.inference.chat_route import chat_completions
from trainer.inference.completions_route import completions
from trainer.inference.constraints import Constrainer
from trainer.inference.generate_route import generate
from trainer.inference.http_answers import JsonAnswer, on_error
from trainer.inference.served import Served
from trainer.inference.tokenize_route import detokenize, tokenize

GAUGES = ("policy_version", "running", "waiting", "cache_tokens")
COUNTERS = (
    "requests",
    "rejected",
    "cancelled",
    "failed",
    "prompt_tokens",
    "cached_prompt_tokens",
    "generated_tokens",
    "decode_steps",
    "publishes",
    "interrupted_steps",
)


def create_app(
    engine: InferenceEngine, renderer: Renderer, parser: ToolCallParser, *, model_id: str, model_path: str
) -> Starlette:
    """The app that serves one engine. It neither starts nor closes the engine."""
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", chat_completions, methods=["POST"]),
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/generate", generate, methods=["POST"]),
            Route("/tokenize", tokenize, methods=["POST"]),
            Route("/detokenize", detokenize, methods=["POST"]),
            Route("/v1/models", models),
            Route("/v1/models/{model_id:path}", one_model),
            Route("/health", health),
            Route("/ready", ready),
            Route("/metrics", metrics),
        ],
        exception_handlers=dict.fromkeys((NatgymError, ValidationError, HTTPException, Exception), on_error),
    )
    reader = CompletionReader(renderer, parser)
    app.state.served = Served(engine, reader, Constrainer(reader), model_id, model_path)
    return app


async def models(request: Request) -> Response:
    """GET /v1/models: the one model, with its directory and policy version."""
    return JsonAnswer({"object": "list", "data": [_model(request.app.state.served)]})


async def one_model(request: Request) -> Response:
    """GET /v1/models/NAME."""
    served: Served = request.app.state.served
    served.check_model(request.path_params["model_id"])
    return JsonAnswer(_model(served))


async def health(request: Request) -> Response:
    """GET /health."""
    stats = request.app.state.served.engine.stats()
    facts: JsonObject = {"policy_version": stats.policy_version, "running": stats.running, "waiting": stats.waiting}
    return JsonAnswer({"status": "ok", **facts})


async def ready(request: Request) -> Response:
    """GET /ready: whether a request would be taken now; 503 where the queue is full or the engine closed."""
    if not request.app.state.served.engine.stats().ready:
        raise QueueFull("the engine takes no requests now: its queue is full, or it is closed")
    return JsonAnswer({"status": "ready"})


async def metrics(request: Request) -> Response:
    """GET /metrics: counters in Prometheus' text format."""
    text = prometheus_text(request.app.state.served.engine.stats())
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


def prometheus_text(stats: EngineStats) -> str:
    """The stats, one sample a line, each name with its type before it."""
    lines: list[str] = []
    for kind, names in (("gauge", GAUGES), ("counter", COUNTERS)):
        for name in names:
            full = f"natgym_inference_{name}" + ("_total" if kind == "counter" else "")
            lines += [f"# TYPE {full} {kind}", f"{full} {getattr(stats, name)}"]
    lines.append("# TYPE natgym_inference_seconds_total counter")
    lines += [f'natgym_inference_seconds_total{{phase="{phase}"}} {value:.6f}' for phase, value in stats.seconds.items()]
    return "\n".join(lines) + "\n"


def _model(served: Served) -> JsonObject:
    return {
        "id": served.model_id,
        "object": "model",
        "created": 0,
        "owned_by": "natgym",
        "path": served.model_path,
        "max_model_len": served.engine.max_length,
        "policy_version": served.engine.policy_version,
    }
