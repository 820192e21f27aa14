"""POST /generate: token ids in, token ids, logprobs and policy versions out, in SGLang's shape and in vLLM's.

The leanest way to sample for training: no template, no parser, the session keeps its cache.
"""

from pydantic import JsonValue
from starlette.requests import Request
from starlette.responses import Response

from core.config import validated
from core.types import FinishReason, JsonObject, TokenIds
from trainer.inference.base import Generation, SamplingParams, UnusableRequest
from trainer.inference.bodies import GenerateBody, IdPrompt, PromptBody, requests_of
from trainer.inference.http_answers import JsonAnswer, read_object, while_connected
from trainer.inference.served import DEFAULT_MAX_TOKENS, Served, spans


async def generate(request: Request) -> Response:
    """The route; a `prompt` is vLLM's shape."""
    served: Served = request.app.state.served
    data = await read_object(request)
    answer = _vllm(served, data) if "prompt" in data else _sglang(served, data)
    return JsonAnswer(await while_connected(request, answer))


async def _sglang(served: Served, data: JsonObject) -> JsonValue:
    """One object, or a list of them where `n` is more than 1."""
    body = validated(GenerateBody, data, "body")
    prompt: TokenIds = tuple(served.renderer.encode(body.text or "")) if body.input_ids is None else body.input_ids
    params = body.params(served.renderer.eos_ids)
    requests = requests_of(prompt, params, body.sampling_params.n, body)
    generations = await served.generate(requests)
    answers: list[JsonValue] = [
        _answer(served, one, params, len(prompt), with_logprobs=body.return_logprob) for one in generations
    ]
    return answers if len(answers) > 1 else answers[0]


async def _vllm(served: Served, data: JsonObject) -> JsonObject:
    """One object whose lists have an entry a choice. Ids and logprobs come where `logprobs` is 0 or 1."""
    body = validated(PromptBody, data, "body")
    served.check_model(body.model)
    if body.stream:
        raise UnusableRequest("stream: /generate answers at once; /v1/completions streams, with token ids too")
    prompt: TokenIds
    if isinstance(body.prompt, IdPrompt):
        prompt, text = body.prompt.prompt_token_ids, served.renderer.decode(body.prompt.prompt_token_ids)
    else:
        text = body.prompt if isinstance(body.prompt, str) else body.prompt.prompt
        prompt = tuple(served.renderer.encode(text))
    params = body.params(body.max_tokens or DEFAULT_MAX_TOKENS, served.renderer.eos_ids)
    generations = await served.generate(requests_of(prompt, params, body.choices, body))
    answer: JsonObject = {
        "text": [served.text(one.token_ids, params.stop) for one in generations],
        "prompt": text,
        "finish_reasons": [one.finish_reason.value for one in generations],
        "weight_versions": [spans(one) for one in generations],
    }
    if body.logprobs is not None:
        answer["prompt_token_ids"] = list(prompt)
        answer["token_ids"] = [list(one.token_ids) for one in generations]
        answer["logprobs"] = [_logprobs_by_id(one) for one in generations]
    return answer


def _logprobs_by_id(generation: Generation) -> list[JsonValue]:
    """[{id: logprob}] a token."""
    pairs = zip(generation.token_ids, generation.logprobs, strict=True)
    return [[{str(token): logprob}] for token, logprob in pairs]


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
