"""The parsers of vLLM and SGLang for the same completion, where those are installed: a function to time, by our name."""

import logging
from collections.abc import Callable, Sequence
from importlib.util import find_spec

from core.types import ToolSpec
from tool_call_parsers.base import PARSERS

SGLANG = {"apertus": "apertus2509", "minimax_m2": "minimax-m2", "internlm": "interns1", "hy_v3": "hunyuan", "openai": "gpt-oss"}
"""Our names whose counterpart is spelled otherwise than by leaving the underscores out."""
ALONE = {"nemotron_v3": "step3p5", "cohere_command": "cohere_command4", "llama3_json": "llama3"}


def sglang(name: str, tools: Sequence[ToolSpec]) -> Callable[[str], int] | None:
    """How many calls SGLang's parser of that name finds; None where there is none, or where SGLang is not installed."""
    if find_spec("sglang") is None:
        return None
    logging.disable(logging.WARNING)  # it logs each call that it refuses
    from sglang.srt.entrypoints.openai.protocol import Function, Tool
    from sglang.srt.function_call.function_call_parser import FunctionCallParser

    known = FunctionCallParser.ToolCallParserEnum
    spelled = [SGLANG.get(name, name), ALONE.get(name, name), name.replace("_v", "v")]
    peer = next((one for one in spelled if one in known), None)
    if peer is None:
        return None
    offered = [
        Tool(type="function", function=Function(name=tool.name, description=tool.description, parameters=tool.parameters))
        for tool in tools
    ]
    return lambda text: len(FunctionCallParser(offered, peer).parse_non_stream(text)[1])


def vllm(name: str, tools: Sequence[ToolSpec]) -> Callable[[str], int] | None:
    """The same of vLLM's parser. Its tokenizer is a stand-in that has the format's markers as tokens."""
    if find_spec("vllm") is None:
        return None
    logging.disable(logging.WARNING)
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.tool_parsers import ToolParserManager

    offered = [{"type": "function", "function": {"name": tool.name, "parameters": tool.parameters}} for tool in tools]
    request = ChatCompletionRequest.model_validate(
        {"model": "m", "messages": [{"role": "user", "content": "Go."}], "tools": offered}
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"?": 0}, unk_token="?")), unk_token="?")
    form = PARSERS.load(name)()
    tokenizer.add_tokens(["<think>", "</think>", *getattr(form, "openers", ()), *getattr(form, "closers", ())])
    try:
        parser = ToolParserManager.get_tool_parser(name)(tokenizer, request.tools)
    except Exception:  # it has no such format, or its parser asks for more than a stand-in has: no peer to time
        return None
    return lambda text: len(parser.extract_tool_calls(text, request).tool_calls)


PEERS = {"SGLang": sglang, "vLLM": vllm}
"""By the name of the project: what loads its parser of a format."""
