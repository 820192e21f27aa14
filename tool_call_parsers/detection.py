# ruff: noqa: RUF001 - the bars in these markers are full width
"""Which format a model speaks: from its chat template, its special tokens or its name, with the reason.

What a chat template writes is what the model was trained on, so it decides where it is known; special tokens come next, a
name last. Rows are tried in order: a marker that only one family has stands before one that several share.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from core.errors import UnknownName
from tool_call_parsers.base import PARSERS, ToolCallParser
from tool_call_parsers.tokens import AddedToken


class ChatTokenizer(Protocol):
    """What is looked at in a tokenizer; any tokenizer of transformers will do."""

    name_or_path: str
    chat_template: str | dict[str, str] | None

    @property
    def added_tokens_decoder(self) -> Mapping[int, AddedToken]: ...


class Detected(NamedTuple):
    """A format and why it was chosen."""

    name: str
    why: str
    tokenizer: ChatTokenizer | None = None

    def parser(self) -> ToolCallParser:
        """The parser of the format."""
        form = PARSERS.load(self.name)
        if self.name == "response_template":
            return form(getattr(self.tokenizer, "response_template", None))  # type: ignore[call-arg]
        return form()


class MarkerRow(NamedTuple):
    """A format and the texts that show it: all of them, spelled in a template, or as tokens of a vocabulary."""

    format: str
    markers: tuple[str, ...]


MARKERS = tuple(
    MarkerRow(name, tuple(markers))
    for name, *markers in (
        ("kimi_k3", "<|open|>", "<|close|>", "<|sep|>"),
        ("kimi_k2", "<|tool_call_argument_begin|>"),
        ("plamo3", "<|plamo:begin_tool_request:plamo|>"),
        ("inkling", "<|content_invoke_tool_json|>"),
        ("muse", "<atem:function_calls>"),
        ("beam", "<rfl:parameter"),
        ("gigachat35", "｜GCML｜"),
        ("gigachat3", "<|function_call|>", "<|role_sep|>"),
        ("deepseek_v41", "｜DSML｜ "),
        ("deepseek_v32", "｜DSML｜", "function_calls"),
        ("deepseek_v4", "｜DSML｜"),
        ("step3", "steptml:invoke"),
        ("deepseek_v3", "<｜tool▁call▁begin｜>", "```json"),
        ("deepseek_v31", "<｜tool▁call▁begin｜>"),
        ("k2_horizon", "<ifm|tool_call>"),
        ("dots", "<dots_function_call>"),
        ("minimax_m3", "]<]minimax[>["),
        ("minimax_m2", "<minimax:tool_call>"),
        ("seed_oss", "<seed:tool_call>"),
        ("minicpm5", "<function name=", "<param name="),
        ("iquest_q1", "<iquest_tool_call>"),
        ("longcat", "<longcat_tool_call>"),
        ("hy_v3", "<tool_sep"),
        ("glm47", "<arg_key>"),
        ("qwen3_coder", "<function="),
        ("cohere_command", "<|START_ACTION|>"),
        ("apertus", "<|tools_prefix|>"),
        ("internlm", "<|action_start|>"),
        ("gemma4", "<|tool_call>call:"),
        ("gemma4", "<|tool_call>", "<tool_call|>"),
        ("functiongemma", "<start_function_call>"),
        ("lfm2", "<|tool_call_start|>"),
        ("olmo3", "<function_calls>"),
        ("openai", "<|channel|>", "<|constrain|>"),
        ("openai", "<|channel|>", "to=functions."),
        ("granite", "<|tool_call|>"),
        ("granite_20b_fc", "<function_call>"),
        ("mistral", "[TOOL_CALLS]"),
        ("phi4_mini_json", "functools["),
        ("phi4_mini_json", "<|tool|>", "<|/tool|>"),
        ("pythonic", "<|python_start|>"),
        ("hunyuan_a13b", "<tool_calls>", "<answer>"),
        ("jamba", "<tool_calls>"),
        ("ernie45", "<tool_call>", "<response>"),
        ("hermes", "<tool_call>"),
        ("llama3_json", "<|python_tag|>"),
        ("llama3_json", '"parameters"', "<|eot_id|>"),
    )
)

NAMES: tuple[tuple[str, str], ...] = (
    (r"hermes|qwen-?2|qwq|trinity|granite-?4\.?[01]?\b(?!.*thinking)|qwen-?3(?!.*(coder|\.\d))", "hermes"),
    (r"nemotron-?3|nemotron.*v3|granite-?4\.2|step-?(3\.5|3p5|5)", "nemotron_v3"),
    (r"qwen-?3|nanbeige|minicpm-?v", "qwen3_coder"),
    (r"gpt-?oss", "openai"),
    (r"kimi.*k3", "kimi_k3"),
    (r"kimi|moonlight", "kimi_k2"),
    (r"deepseek.*v4[._]?1", "deepseek_v41"),
    (r"deepseek.*v4", "deepseek_v4"),
    (r"deepseek.*v3[._]?2", "deepseek_v32"),
    (r"deepseek.*v3[._]?1", "deepseek_v31"),
    (r"deepseek.*(v3|r1)", "deepseek_v3"),
    (r"glm-?(4\.[5-9]|5)|ling-?3|laguna|poolside|spark-?2", "glm47"),
    (r"minimax.*m3", "minimax_m3"),
    (r"minimax", "minimax_m2"),
    (r"mistral|mixtral|devstral|magistral|ministral|codestral|pixtral", "mistral"),
    (r"xlam", "xlam"),
    (r"llama-?4|toolace|gemma-?3(?!n)", "pythonic"),
    (r"llama", "llama3_json"),
    (r"function-?gemma", "functiongemma"),
    (r"gemma", "gemma4"),
    (r"granite.*20b.*(fc|function)", "granite_20b_fc"),
    (r"granite", "granite"),
    (r"seed-?oss", "seed_oss"),
    (r"gigachat.*3\.5", "gigachat35"),
    (r"gigachat", "gigachat3"),
    (r"hunyuan.*a13b", "hunyuan_a13b"),
    (r"hunyuan|\bhy-?v?[34]", "hy_v3"),
    (r"command|\bc4ai|cohere", "cohere_command"),
    (r"intern-?(lm|s1)", "internlm"),
    (r"phi-?4", "phi4_mini_json"),
    (r"step-?3", "step3"),
    (r"k2-?horizon", "k2_horizon"),
    (r"muse.*glimmer", "muse_glimmer"),
    (r"minicpm", "minicpm5"),
    (r"ernie", "ernie45"),
    (r"olmo-?3", "olmo3"),
    *(
        (name, name.replace("-", "_"))
        for name in ("apertus", "dots", "inkling", "jamba", "lfm2", "longcat", "mimo", "muse", "plamo3", "beam")
    ),
    (r"iquest", "iquest_q1"),
)


def for_model(model: str | ChatTokenizer) -> Detected:
    """The format of a model, by its name or its tokenizer, and why.

    Raises UnknownName, with near ones, where nothing shows it.
    """
    if isinstance(model, str):
        return _by_name(model) or _unknown(model)
    template = _template(model.chat_template)
    tokens = {token.content for token in model.added_tokens_decoder.values()}
    return (
        _by_template(template, model)
        or _by_response_template(model)
        or _by_tokens(tokens)
        or _by_name(model.name_or_path)
        or _unknown(model.name_or_path)
    )


def _by_template(template: str, model: ChatTokenizer) -> Detected | None:
    for form, markers in MARKERS:
        if all(marker in template for marker in markers):
            return Detected(form, f"its chat template writes {_listed(markers)}", model)
    return None


def _by_response_template(model: ChatTokenizer) -> Detected | None:
    if getattr(model, "response_template", None) is None:
        return None
    return Detected("response_template", "its tokenizer has a response_template", model)


def _by_tokens(tokens: set[str]) -> Detected | None:
    for form, markers in MARKERS:
        if all(any(marker in token for token in tokens) for marker in markers):
            return Detected(form, f"its vocabulary has {_listed(markers)}")
    return None


def _by_name(name: str) -> Detected | None:
    formal = PARSERS.formal_name(name)
    if formal in PARSERS.table:
        return Detected(formal, f"{name!r} is a name of the format")
    for pattern, form in NAMES:
        if found := re.search(pattern, name.lower()):
            return Detected(form, f"its name holds {found[0]!r}")
    return None


def _unknown(name: str) -> Detected:
    raise UnknownName("tool-call format for the model", name, PARSERS.names)


def _template(template: str | Mapping[str, str] | None) -> str:
    """The source of a chat template; of that for tools where there are several."""
    if isinstance(template, Mapping):
        return template.get("tool_use") or template.get("default") or "\n".join(template.values())
    return template or ""


def _listed(markers: Sequence[str]) -> str:
    return " and ".join(repr(marker) for marker in markers)
