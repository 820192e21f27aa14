"""What other renderers write is what our parsers read; skipped where they are not installed.

Neither package can stand beside natgym's pins; the page on formats says how to run these tests with them.
"""

import importlib.util
import json
from pathlib import Path

import pytest
from tokenizers import AddedToken

from core.types import JsonObject, ToolSpec
from tests.tool_call_parsers.tiny_model import tiny_tokenizer
from tool_call_parsers.base import PARSERS
from tool_call_parsers.tokens import SampledTokens, Vocabulary

MISTRAL_COMMON = importlib.util.find_spec("mistral_common")
RENDERERS = importlib.util.find_spec("renderers")
CALLS = [("get_weather", {"city": "Zürich 世界", "days": 3}), ("ping", {})]
PARAMETERS: dict[str, JsonObject] = {
    "get_weather": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    "ping": {"type": "object", "properties": {}},
}
TOOLS = [ToolSpec(name=name, description="", parameters=parameters) for name, parameters in PARAMETERS.items()]


@pytest.mark.skipif(MISTRAL_COMMON is None, reason="mistral-common is not installed")
@pytest.mark.filterwarnings("ignore")  # its own
@pytest.mark.parametrize("vocabulary", ["tekken_240718.json", "tekken_240911.json"])
def test_mistral_calls_are_read_as_mistral_common_writes_them(vocabulary: str):
    from mistral_common.protocol.instruct.messages import AssistantMessage, ToolMessage, UserMessage
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.protocol.instruct.tool_calls import FunctionCall, ToolCall
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    assert MISTRAL_COMMON is not None
    assert MISTRAL_COMMON.origin is not None
    tokenizer = MistralTokenizer.from_file(str(Path(MISTRAL_COMMON.origin).parent / "data" / vocabulary))
    ids = ["abcdefgh1", "abcdefgh2"]
    calls = [
        ToolCall(id=one, function=FunctionCall(name=name, arguments=json.dumps(arguments)))
        for one, (name, arguments) in zip(ids, CALLS, strict=True)
    ]
    answers = [ToolMessage(tool_call_id=one, content="ok") for one in ids]
    messages = [UserMessage(content="Go."), AssistantMessage(content=None, tool_calls=calls), *answers]
    text = tokenizer.encode_chat_completion(ChatCompletionRequest(messages=messages)).text
    assert text is not None
    said = text[text.index("[TOOL_CALLS]") :].split("</s>")[0]
    found = PARSERS.load("mistral")().parse(said).calls
    assert [(call.name, json.loads(call.arguments)) for call in found] == CALLS
    assert [call.id for call in found] == ids


def stand_in_tokenizer():
    """A small tokenizer that takes every token it is asked for into its vocabulary, as the model of that family has it."""
    from transformers import PreTrainedTokenizerFast

    class Learning(PreTrainedTokenizerFast):
        def convert_tokens_to_ids(self, tokens: str) -> int:
            if tokens not in self.get_vocab():
                self.add_tokens([AddedToken(tokens, special=False, normalized=False)])
            return super().convert_tokens_to_ids(tokens)

    return Learning(tokenizer_object=tiny_tokenizer(), eos_token="<|im_end|>", unk_token="<|unk|>")


@pytest.mark.skipif(RENDERERS is None, reason="renderers is not installed")
@pytest.mark.filterwarnings("ignore")  # its own
@pytest.mark.parametrize(
    ("renderer", "name", "count"),
    [
        ("Qwen3Renderer", "hermes", 2),
        ("Qwen35Renderer", "qwen3_coder", 2),
        ("Nemotron3Renderer", "nemotron_v3", 2),
        ("GLM45Renderer", "glm45", 2),
        ("GLM5Renderer", "glm47", 2),
        ("LagunaXS2Renderer", "poolside_v1", 2),
        ("KimiK2Renderer", "kimi_k2", 2),
        ("Llama3Renderer", "llama3_json", 1),
        ("MiniMaxM2Renderer", "minimax_m2", 2),
        ("Gemma4Renderer", "gemma4", 2),
        ("Hy3Renderer", "hy_v3", 2),
        ("InklingRenderer", "inkling", 2),
    ],
)
def test_token_ids_of_renderers_are_read(renderer: str, name: str, count: int):
    import renderers

    tokenizer = stand_in_tokenizer()
    renders = getattr(renderers, renderer)(tokenizer)
    calls = [
        {"id": f"functions.{one}:{index}", "type": "function", "function": {"name": one, "arguments": json.dumps(given)}}
        for index, (one, given) in enumerate(CALLS[:count])
    ]
    asked = [{"role": "user", "content": "Go."}]
    tools = [{"type": "function", "function": tool.model_dump()} for tool in TOOLS]
    prompt = renders.render(asked, tools=tools, add_generation_prompt=True).token_ids
    whole = renders.render([*asked, {"role": "assistant", "content": "", "tool_calls": calls}], tools=tools).token_ids
    shared = next(at for at, token in enumerate(whole) if at >= len(prompt) or token != prompt[at])
    found = PARSERS.load(name)().parse(SampledTokens(whole[shared:], Vocabulary.of(tokenizer)), TOOLS)
    assert [(call.name, json.loads(call.arguments)) for call in found.calls] == CALLS[:count]
    assert not found.malformed
