# ruff: noqa: RUF001, RUF002 - the bars in these markers are full width
"""DSML, the elements of DeepSeek since V3.2, and its relatives: an argument says whether it is text or JSON.

    <｜DSML｜function_calls>
    <｜DSML｜invoke name="f">
    <｜DSML｜parameter name="city" string="true">Zürich</｜DSML｜parameter>
    <｜DSML｜parameter name="n" string="false">5</｜DSML｜parameter>
    </｜DSML｜invoke>
    </｜DSML｜function_calls>

A schema that is known decides over the attribute. The turn ends with its calls: what a model says behind them is dropped.
"""

from dataclasses import replace

from tool_call_parsers.reasoning import Trim
from tool_call_parsers.reasoning_formats import reasoning_format
from tool_call_parsers.tagged import TaggedFormat
from tool_call_parsers.tags import Tags

WRAPPERS = r"(?:function_calls|tool_?calls?|tool|calls)"
"""How the wrapper is called, right and wrong: V3.2, V4, V4.1, and what V4 writes by mistake."""


def dsml_tags(word: str, blank: str = "") -> Tags:
    """The delimiters with that word in every tag; `blank` is what follows it."""
    begin, end = f"<｜{word}｜{blank}", f"</｜{word}｜{blank}"
    return Tags(
        wrapper=rf"{begin}{WRAPPERS}>",
        wrapper_close=rf"{end}{WRAPPERS}>",
        call=rf"{begin}invoke\s+name=\"(?P<name>[^\"<>\n]*)\"\s*>",
        call_close=rf"{end}invoke>",
        argument=rf"{begin}parameter\s+name=\"(?P<name>[^\"<>\n]*)\"(?:\s+string=\"(?P<string>[a-z]*)\")?\s*>",
        argument_close=rf"{end}parameter>",
        json_values=True,
        json_bodies=True,
        unwraps=("arguments", "input"),
    )


class DeepSeekV32(TaggedFormat):
    """DeepSeek-V3.2."""

    name = "deepseek_v32"
    tags = dsml_tags("DSML")
    openers = ("<｜DSML｜",)
    closers = ("</｜DSML｜invoke>", "</｜DSML｜")
    reasoning = replace(reasoning_format("think"), opened_by_prompt=True)
    trim = Trim.NONE
    text_after_calls = False


class DeepSeekV4(DeepSeekV32):
    """DeepSeek-V4: the wrapper is `tool_calls`."""

    name = "deepseek_v4"


class DeepSeekV41(DeepSeekV32):
    """DeepSeek-V4.1: a blank stands behind the word in every tag, and the wrapper is `calls`."""

    name = "deepseek_v41"
    tags = dsml_tags("DSML", " ?")


class GigaChat35(TaggedFormat):
    """GigaChat 3.5: the same under another word, with the role markers of its template around it."""

    name = "gigachat35"
    tags = dsml_tags("GCML")
    openers = ("<｜GCML｜",)
    closers = ("</｜GCML｜invoke>", "</｜GCML｜")
    markup = ("<|message_sep|>", "</s>")
    reasoning = reasoning_format("think")
    text_after_calls = False
