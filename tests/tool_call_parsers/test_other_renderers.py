"""What other renderers write is what our parsers read; skipped where they are not installed."""

import importlib.util
import json
from pathlib import Path

import pytest

from tool_call_parsers.base import PARSERS

MISTRAL_COMMON = importlib.util.find_spec("mistral_common")
CALLS = [("get_weather", {"city": "Zürich 世界", "days": 3}), ("ping", {})]


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
