# ruff: noqa: RUF001 - the bars in these markers are full width
"""Formats of calls and arguments as XML-like elements: delimiters for the grammar of `tagged`, by family.

Sources: the chat templates of the families, and what vLLM's and SGLang's parsers of these names accept.
"""

from dataclasses import replace

from tool_call_parsers.reasoning import Trim
from tool_call_parsers.reasoning_formats import reasoning_format
from tool_call_parsers.tagged import TaggedFormat
from tool_call_parsers.tags import Tags

QUOTED_NAME = r"[\"']?(?P<name>[^\"'<>\n]*)[\"']?\s*"

QWEN3_CODER = Tags(
    wrapper=r"<tool_call>",
    wrapper_close=r"</tool_call>",
    call=r"<function=\s*(?P<name>[^<>\n]*)>",
    call_close=r"</function>",
    argument=r"<\s?parameter\s?=\s?[\"']?(?P<name>[^<>\s\"']+)[\"']?\s?>",
    argument_close=r"<\s?/\s?parameter[^<>\s]*\s?>|</parameter(?=\s*<)",
    line_breaks=True,
)
"""`</parameter1>`, `</parameter/>` and a cut `</parameter` are how its models misspell the closing tag."""


class Qwen3Coder(TaggedFormat):
    """Qwen3-Coder, Qwen3.5 and later, Nanbeige, MiniCPM-V: `<tool_call><function=f><parameter=k>`."""

    name = "qwen3_coder"
    tags = QWEN3_CODER
    openers = ("<tool_call>", "<function=")
    closers = ("</function>", "</tool_call>")
    reasoning = replace(reasoning_format("think_verbatim"), opened_by_prompt=True)


class ThinkingQwen3Coder(Qwen3Coder):
    """Nemotron-3, Granite-4.2, Step-3.5 and later: the same calls, white space around reasoning is markup."""

    name = "nemotron_v3"
    reasoning = reasoning_format("think")


class MiMo(Qwen3Coder):
    """MiMo: the same tags, values verbatim."""

    name = "mimo"
    tags = replace(QWEN3_CODER, line_breaks=False)


class SeedOss(Qwen3Coder):
    """Seed-OSS: the same in `<seed:tool_call>`."""

    name = "seed_oss"
    tags = replace(QWEN3_CODER, wrapper=r"<seed:tool_call>", wrapper_close=r"</seed:tool_call>")
    openers = ("<seed:tool_call>", "<function=")
    closers = ("</function>", "</seed:tool_call>")
    reasoning = replace(reasoning_format("seed"), trim=Trim.NONE)


INVOKE = Tags(
    call=rf"<invoke\s+name\s*=\s*{QUOTED_NAME}>",
    call_close=r"</invoke>",
    argument=rf"<\s?parameter\s+name\s*=\s*{QUOTED_NAME}>",
    argument_close=r"<\s?/\s?parameter\s?>",
)


class MiniMaxM2(TaggedFormat):
    """MiniMax-M2: `<minimax:tool_call><invoke name="f"><parameter name="k">`."""

    name = "minimax_m2"
    tags = replace(INVOKE, wrapper=r"<minimax:tool_call>", wrapper_close=r"</minimax:tool_call>")
    openers = ("<minimax:tool_call>", "<invoke")
    closers = ("</invoke>", "</minimax:tool_call>")
    reasoning = reasoning_format("think")


class Dots(TaggedFormat):
    """Dots: `<dots_function_call><invoke name="f"><parameter name="k">`, or a JSON object in the wrapper."""

    name = "dots"
    tags = replace(
        INVOKE,
        wrapper=r"<dots_function_call>",
        wrapper_close=r"</dots_function_call>",
        bare_calls=False,
        stripped=True,
        json_calls=True,
    )
    openers = ("<dots_function_call>",)
    closers = ("</dots_function_call>",)
    reasoning = reasoning_format("think")
    all_or_nothing = True


class MiniCpm5(TaggedFormat):
    """MiniCPM5: `<function name="f"><param name="k">`, CDATA allowed; decoders leave `Ġ` for the blank in a tag, or nothing."""

    name = "minicpm5"
    tags = Tags(
        call=r"<function[\sĠ]*name=[\"'](?P<name>[^\"'<>\n]+)[\"'][^<>]*>(?:\s*<arguments>)?",
        call_close=r"<(?:/arguments>\s*<)?/function>",
        argument=r"<param[\sĠ]*name=[\"'](?P<name>[^\"'<>\n]+)[\"'][^<>]*>",
        argument_close=r"</param>",
        stripped=True,
        cdata=True,
        json_values=True,
        once=True,
        unwraps=("properties", "arguments"),
    )
    openers = ("<function",)
    closers = ("</function>",)
    reasoning = reasoning_format("think")
    all_or_nothing = True


STEP3_HEADER = r"(?:｜tool_call_begin｜>\s*(?:function\s*)?(?:<｜tool_sep｜>\s*)?|｜tool_sep｜>\s*)"
"""What stands before a call, without the `<` that begins it and every tag: the engine looks for that alone."""


class Step3(TaggedFormat):
    """Step3: `<steptml:invoke name="f"><steptml:parameter name="k">` between the tokens of a section."""

    name = "step3"
    tags = Tags(
        wrapper=r"<｜tool_calls_begin｜>",
        wrapper_close=r"<｜tool_calls_end｜>",
        call=rf"<(?:{STEP3_HEADER}<)?steptml:invoke\s+name\s*=\s*{QUOTED_NAME}>",
        call_close=r"</steptml:invoke>(?:\s*<｜tool_call_end｜>)?",
        argument=rf"<steptml:parameter\s+name\s*=\s*{QUOTED_NAME}>",
        argument_close=r"</steptml:parameter>",
        bare_calls=False,
        stripped=True,
    )
    openers = ("<｜tool_calls_begin｜>",)
    closers = ("<｜tool_calls_end｜>",)
    reasoning = reasoning_format("think")
