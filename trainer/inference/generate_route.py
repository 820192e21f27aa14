"""POST /generate, in the shape of SGLang's: token ids in, token ids, logprobs and policy versions out.

The leanest way to sample for training: no template, no parser, the session keeps its cache.
"""

from pydantic import JsonValue
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from core.types import FinishReason, JsonObject, TokenIds
from trainer.inference.base import Generation, SamplingParams
from trainer.inference.bodies import GenerateBody, requests_of
from trainer.inference.http_answers import read_body, while_connected
from trainer.inference.served import Served, spans


async def generate(request: Request) -> Response:
    """The route: one object, or a list of them where `n` is more than 1."""
    served: Served = request.app.state.served
    body = await read_body(request, GenerateBody)
    prompt: TokenIds = tuple(served.renderer.encode(body.text or "")) if body.input_ids is None else body.input_ids
    params = body.params(served.renderer.eos_ids)
    requests = requests_of(prompt, params, body.sampling_params.n, body.session_id)
    generations = await while_connected(request, served.generate(requests))
    answers = [_answer(served, one, params, len(prompt), with_logprobs=body.return_logprob) for one in generations]
    return JSONResponse(answers if len(answers) > 1 else answers[0])


def _answer(
    served: Served, generation: Generation, params: SamplingParams, prompt_tokens: int, *, with_logprobs: bool
) -> JsonObject:
    meta: JsonObject = {
        "finish_reason": _finish_reason(generation, params),
        "prompt_tokens": prompt_tokens,
        "completion_tokens": len(generation.token_ids),
        "cached_tokens": generation.cached_tokens,
        "weight_version": str(generation.policy_version),
        "weight_versions": spans(generation),
    }
    if with_logprobs:
        pairs = zip(generation.logprobs, generation.token_ids, strict=True)
        entries: list[JsonValue] = [[logprob, token, None] for logprob, token in pairs]
        meta["output_token_logprobs"] = entries
    text = served.text(generation.token_ids, params.stop)
    return {"text": text, "output_ids": list(generation.token_ids), "meta_info": meta}


def _finish_reason(generation: Generation, params: SamplingParams) -> JsonObject:
    last = generation.token_ids[-1]
    if generation.finish_reason is FinishReason.LENGTH:
        return {"type": "length", "length": len(generation.token_ids)}
    return {"type": "stop", "matched": last if last in params.stop_token_ids else None}
