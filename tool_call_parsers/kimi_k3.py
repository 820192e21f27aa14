"""The format of Kimi K3: channels and calls between tokens, with attributes.

    <|open|>response<|sep|>text<|close|>response<|sep|>
    <|open|>tools<|sep|>
    <|open|>call tool="f" index="1"<|sep|>
    <|open|>argument key="k" type="string"<|sep|>v<|close|>argument<|sep|>
    <|close|>call<|sep|><|close|>tools<|sep|>

An argument of type string is text as it stands, any other is JSON. Attributes escape `&` and `"` only.
"""

from tool_call_parsers.reasoning_formats import reasoning_format
from tool_call_parsers.tagged import TaggedFormat
from tool_call_parsers.tags import Tags

OPEN, CLOSE, SEPARATOR = r"<\|open\|>\s?", r"<\|close\|>\s?", r"\s?<\|sep\|>"


class KimiK3(TaggedFormat):
    """Kimi K3."""

    name = "kimi_k3"
    tags = Tags(
        wrapper=rf"{OPEN}tools{SEPARATOR}",
        wrapper_close=rf"{CLOSE}tools{SEPARATOR}",
        call=rf"{OPEN}call\s+tool=\"(?P<name>[^\"<>]*)\"[^<>]*{SEPARATOR}",
        call_close=rf"{CLOSE}call{SEPARATOR}",
        argument=rf"{OPEN}argument\s+key=\"(?P<name>[^\"<>]*)\"(?:\s+type=\"(?P<type>[^\"<>]*)\")?[^<>]*{SEPARATOR}",
        argument_close=rf"{CLOSE}argument{SEPARATOR}",
        bare_calls=False,
        escaped_names=True,
    )
    markup = (
        "<|open|>response<|sep|>",
        "<|close|>response<|sep|>",
        "<|close|>message<|sep|>",
        "<|end_of_msg|>",
    )
    openers = ("<|open|>tools<|sep|>", "<|open|> tools", *markup)
    closers = ("tools<|sep|>",)
    reasoning = reasoning_format("kimi_k3")
