# ruff: noqa: RUF001 - the bars in these markers are full width
"""The same calls as the models of each format write them, for the benchmark of the parsers."""

import json
from collections.abc import Callable

from core.types import JsonObject

Calls = list[tuple[str, JsonObject]]
Writer = Callable[[Calls], str]
DSML = "<｜DSML｜"


def each(call: Callable[[str, str], str], begin: str = "", end: str = "", between: str = "") -> Writer:
    """A writer of calls one by one, from a name and the JSON text of arguments, between `begin` and `end`."""
    return lambda calls: begin + between.join(call(name, json.dumps(given)) for name, given in calls) + end


def tagged(begin: str, end: str, between: str = "", key: str = "arguments") -> Writer:
    """A writer of JSON objects, each between `begin` and `end`."""
    return each(lambda name, given: f'{begin}{{"name": "{name}", "{key}": {given}}}{end}', between=between)


def listed(begin: str, end: str = "", name: str = "name", arguments: str = "arguments") -> Writer:
    """A writer of a JSON list of calls between `begin` and `end`."""
    return lambda calls: begin + json.dumps([{name: one, arguments: given} for one, given in calls]) + end


def kimi(calls: Calls) -> str:
    """As Kimi K2 writes."""
    blocks = (
        f"<|tool_call_begin|>functions.{name}:{index}<|tool_call_argument_begin|>{json.dumps(given)}<|tool_call_end|>"
        for index, (name, given) in enumerate(calls)
    )
    return f"<|tool_calls_section_begin|>{''.join(blocks)}<|tool_calls_section_end|>"


def elements(call: str, argument: str, end: str, begin_all: str = "", end_all: str = "") -> Writer:
    """A writer of an element for each call and each argument; `call` holds a NAME, `argument` a KEY and a VALUE."""

    def write(calls: Calls) -> str:
        return (
            begin_all
            + "\n".join(
                call.replace("NAME", name)
                + "".join(argument.replace("KEY", key).replace("VALUE", str(value)) for key, value in given.items())
                + end
                for name, given in calls
            )
            + end_all
        )

    return write


FUNCTION = elements("<tool_call>\n<function=NAME>\n", "<parameter=KEY>\nVALUE\n</parameter>\n", "</function>\n</tool_call>")
PAIRS = elements("<tool_call>NAME", "<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>", "</tool_call>")
INVOKE, PARAMETER = '<invoke name="NAME">\n', '<parameter name="KEY">VALUE</parameter>\n'

JSON_BODIED: dict[str, Writer] = {
    "hermes": tagged("<tool_call>\n", "\n</tool_call>", "\n"),
    "mistral": each(lambda name, given: f"[TOOL_CALLS]{name}[ARGS]{given}"),
    "llama3_json": tagged("", "", "; ", key="parameters"),
    "granite": listed("<|tool_call|>"),
    "kimi_k2": kimi,
    "apertus": lambda calls: "<|tools_prefix|>" + json.dumps([dict([call]) for call in calls]) + "<|tools_suffix|>",
    "cohere_command": listed("<|START_ACTION|>", "<|END_ACTION|>", "tool_name", "parameters"),
    "deepseek_v3": each(
        lambda name, given: f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{given}\n```<｜tool▁call▁end｜>",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁end｜>",
        "\n",
    ),
    "deepseek_v31": each(
        lambda name, given: f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{given}<｜tool▁call▁end｜>",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁end｜>",
    ),
    "ernie45": tagged("<tool_call>\n", "\n</tool_call>", "\n"),
    "gigachat3": lambda calls: tagged("<|function_call|>", "")(calls[:1]),
    "granite_20b_fc": tagged("<function_call> ", "", "\n"),
    "hunyuan_a13b": listed("<tool_calls>", "</tool_calls>"),
    "inkling": each(
        lambda name, given: (
            f'<|message_model|><|content_invoke_tool_json|>{{"name": "{name}", "args": {given}}}<|end_message|>'
        ),
    ),
    "internlm": tagged("<|action_start|><|plugin|>\n", "<|action_end|>", key="parameters"),
    "jamba": listed("<tool_calls>", "</tool_calls>"),
    "longcat": tagged("<longcat_tool_call>", "</longcat_tool_call>", "\n"),
    "openai": each(
        lambda name, given: f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{given}<|call|>",
        between="<|start|>assistant",
    ),
    "phi4_mini_json": listed("functools"),
    "plamo3": each(
        lambda name, given: (
            f"<|plamo:begin_tool_request:plamo|><|plamo:begin_tool_name:plamo|>{name}<|plamo:end_tool_name:plamo|>"
            f"<|plamo:begin_tool_arguments:plamo|><|plamo:constrain|>json<|plamo:msg|>{given}"
            "<|plamo:end_tool_arguments:plamo|><|plamo:end_tool_request:plamo|>"
        ),
        "<|plamo:begin_tool_requests:plamo|>",
        "<|plamo:end_tool_requests:plamo|>",
    ),
    "xlam": listed("```json\n", "\n```"),
}
"""By the name of a format: its writer of calls with JSON in them."""

ELEMENTS: dict[str, Writer] = {
    "qwen3_coder": FUNCTION,
    "glm47": PAIRS,
    "nemotron_v3": FUNCTION,
    "deepseek_v32": elements(
        f'{DSML}invoke name="NAME">\n',
        f'{DSML}parameter name="KEY" string="true">VALUE</{DSML[1:]}parameter>\n',
        f"</{DSML[1:]}invoke>\n",
        f"{DSML}function_calls>\n",
        f"</{DSML[1:]}function_calls>",
    ),
    "hy_v3": elements(
        "<tool_call>NAME<tool_sep>\n",
        "<arg_key>KEY</arg_key>\n<arg_value>VALUE</arg_value>\n",
        "</tool_call>",
        "<tool_calls>\n",
        "\n</tool_calls>",
    ),
    "kimi_k3": elements(
        '<|open|>call tool="NAME" index="1"<|sep|>',
        '<|open|>argument key="KEY" type="string"<|sep|>VALUE<|close|>argument<|sep|>',
        "<|close|>call<|sep|>",
        "<|open|>tools<|sep|>",
        "<|close|>tools<|sep|>",
    ),
    "mimo": elements("<tool_call>\n<function=NAME>\n", "<parameter=KEY>VALUE</parameter>\n", "</function>\n</tool_call>"),
    "minimax_m2": elements(INVOKE, PARAMETER, "</invoke>", "<minimax:tool_call>\n", "\n</minimax:tool_call>"),
    "seed_oss": elements(
        "<seed:tool_call>\n<function=NAME>\n", "<parameter=KEY>VALUE</parameter>\n", "</function>\n</seed:tool_call>"
    ),
    "step3": elements(
        '<｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke name="NAME">',
        '<steptml:parameter name="KEY">VALUE</steptml:parameter>',
        "</steptml:invoke><｜tool_call_end｜>",
        "<｜tool_calls_begin｜>",
        "<｜tool_calls_end｜>",
    ),
}
"""By the name of a format: its writer of calls with an element for each argument."""

FRAMES = {
    "openai": ("<|channel|>commentary<|message|>", "<|end|><|start|>assistant"),
    "inkling": ("<|message_model|><|content_text|>", "<|end_message|>"),
}
"""What stands around prose in formats of channels."""
ONE_CALL = frozenset({"gigachat3"})
"""Formats that hold one call a turn."""


def completion(name: str, prose: str, calls: Calls) -> str:
    """Prose and then calls, as a model of that format writes them."""
    begin, end = FRAMES.get(name, ("", "\n"))
    return f"{begin}{prose}{end}{(JSON_BODIED | ELEMENTS)[name](calls)}"
