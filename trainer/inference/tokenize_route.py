"""POST /tokenize and POST /detokenize, as vLLM and SGLang answer them: text or a conversation to ids, and back."""

from starlette.requests import Request
from starlette.responses import Response

from core.types import JsonObject
from trainer.inference.base import UnusableRequest
from trainer.inference.bodies import DetokenizeBody, TokenizeBody
from trainer.inference.http_answers import JsonAnswer, read_body
from trainer.inference.served import Served


async def tokenize(request: Request) -> Response:
    """The ids that a completion of this text, or a chat of these messages, would be sampled after."""
    served: Served = request.app.state.served
    body = await read_body(request, TokenizeBody)
    served.check_model(body.model)
    if body.prompt is not None:
        ids = served.renderer.encode(body.prompt)
    else:
        messages = [message.message() for message in body.messages or ()]
        tools = [tool.spec() for tool in body.tools or ()]
        ids = served.renderer.render(messages, tools, add_generation_prompt=body.add_generation_prompt)
    answer: JsonObject = {"count": len(ids), "max_model_len": served.engine.max_length, "tokens": list(ids)}
    return JsonAnswer(answer)


async def detokenize(request: Request) -> Response:
    """The text of ids, special tokens included; vLLM's clients read it as `prompt`, SGLang's as `text`."""
    served: Served = request.app.state.served
    body = await read_body(request, DetokenizeBody)
    served.check_model(body.model)
    size = served.renderer.vocab_size
    if max(body.tokens, default=0) >= size:
        raise UnusableRequest(f"token id {max(body.tokens)} is outside the tokenizer's vocabulary of {size}")
    text = served.renderer.decode(body.tokens)
    return JsonAnswer({"prompt": text, "text": text})
