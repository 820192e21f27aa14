"""Formats of arguments as pairs of a key and a value element: the GLM family and those that took it over.

    <tool_call>get_weather<arg_key>city</arg_key><arg_value>Zürich</arg_value></tool_call>

GLM-4.5 writes line breaks between the elements, GLM-4.7 none; both are read. Values are text: types come from the schema.
"""

from dataclasses import replace

from tool_call_parsers.reasoning import Trim
from tool_call_parsers.reasoning_formats import reasoning_format
from tool_call_parsers.tagged import TaggedFormat
from tool_call_parsers.tags import Tags

NAME = r"\s*(?P<name>[^<>\n{}\"]*)"

GLM = Tags(
    call=rf"<tool_call>{NAME}",
    call_close=r"</tool_call>",
    argument=r"<arg_key>\s?(?P<name>[^<>]*)</arg_key>\s*<arg_value>",
    argument_close=r"</arg_value>",
    call_closes_argument=False,
)


class Glm47(TaggedFormat):
    """GLM-4.5 to GLM-5, Ling3, Laguna, Spark2.5."""

    name = "glm47"
    tags = GLM
    openers = ("<tool_call>",)
    closers = ("</tool_call>",)
    reasoning = reasoning_format("think")


class IQuestQ1(Glm47):
    """IQuest-Q1: the same in `<iquest_tool_call>`."""

    name = "iquest_q1"
    tags = replace(GLM, call=rf"<iquest_tool_call>{NAME}", call_close=r"</iquest_tool_call>")
    openers = ("<iquest_tool_call>",)
    closers = ("</iquest_tool_call>",)


SUFFIX = r"(?::\w+)?"


class HunyuanV3(TaggedFormat):
    """Hunyuan v3 and v4: a wrapper, a separator behind the name, and a suffix of the checkpoint in every tag of v4."""

    name = "hy_v3"
    tags = Tags(
        wrapper=rf"<tool_calls{SUFFIX}>",
        wrapper_close=rf"</tool_calls{SUFFIX}>",
        call=rf"<tool_call{SUFFIX}>{NAME}\s*<tool_sep{SUFFIX}>",
        call_close=rf"</tool_call{SUFFIX}>",
        argument=rf"<arg_key{SUFFIX}>\s?(?P<name>[^<>]*)</arg_key{SUFFIX}>\s*<arg_value{SUFFIX}>",
        argument_close=rf"</arg_value{SUFFIX}>",
        call_closes_argument=False,
    )
    openers = ("<tool_call",)
    closers = ("</tool_call",)
    reasoning = reasoning_format("think")


class K2Horizon(TaggedFormat):
    """K2-Horizon: `<ifm|tool_calls>`; a group with one broken call is text.

    Its checkpoints write arguments as elements, with or without their type, or a call as JSON: each call shows which.
    """

    name = "k2_horizon"
    tags = Tags(
        wrapper=r"<ifm\|tool_calls>",
        wrapper_close=r"</ifm\|tool_calls>",
        call=rf"<ifm\|tool_call>{NAME}",
        call_close=r"</ifm\|tool_call>",
        argument=(
            r"<ifm\|arg_key>\s?(?P<name>[^<>]*)</ifm\|arg_key>\s*"
            r"(?:<ifm\|arg_type>(?P<type>[^<>]*)</ifm\|arg_type>\s*)?<ifm\|arg_value>"
        ),
        argument_close=r"</ifm\|arg_value>",
        bare_calls=False,
        call_closes_argument=False,
        json_in_calls=True,
        once=True,
    )
    openers = ("<ifm|tool_calls>",)
    closers = ("</ifm|tool_calls>",)
    reasoning = replace(reasoning_format("k2_horizon"), prompted=False)
    trim = Trim.NONE
    all_or_nothing = True
