"""The delimiters of a format whose calls and arguments are elements; see `tagged`, which reads them."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

END = r"\Z"
NOTHING = r"(?!)"
"""The expression that matches nowhere."""


@dataclass(frozen=True)
class Tags:
    """The delimiters of one format, as regular expressions; `call` and `argument` have a group `name`.

    `argument` may have a group `string` ("true": the value is text, "false": it is JSON) and a group `type`.
    """

    call: str
    call_close: str
    argument: str
    argument_close: str
    wrapper: str = NOTHING
    wrapper_close: str = NOTHING
    bare_calls: bool = True
    """Calls outside of a wrapper are calls."""
    line_breaks: bool = False
    """One line break at either end of a value belongs to the tags."""
    stripped: bool = False
    """All white space around a value belongs to the tags."""
    json_values: bool = False
    """A value of no declared type is read as JSON where it is JSON."""
    call_closes_argument: bool = True
    """The end of a call ends a value whose closing tag was left out."""
    unwraps: tuple[str, ...] = ()
    """An argument of such a name, alone and not declared, holds all arguments as one object."""
    once: bool = False
    """An argument that stands twice breaks the call."""
    cdata: bool = False
    """A value may stand in `<![CDATA[...]]>`, and is verbatim then."""
    json_calls: bool = False
    """A wrapper may hold a JSON object of `name` and `arguments` in place of a call."""
    escaped_names: bool = False
    """Names write `&quot;` and `&amp;` for a quote and an ampersand."""
    json_bodies: bool = False
    """A call may hold a JSON object in place of its arguments."""
    json_in_calls: bool = False
    """A call without a name may hold a JSON object of `name` and `arguments`."""

    @property
    def has_wrapper(self) -> bool:
        """Whether calls may stand in a wrapper."""
        return self.wrapper != NOTHING

    @cached_property
    def patterns(self) -> "Patterns":
        """The expressions that reading needs, compiled."""
        after_value = _either(self.argument, self.call_close, self.wrapper_close, END)
        after_call = _either(self.wrapper_close, self.wrapper, self.call, END)
        after_wrapper, begun = _either(self.wrapper, END), _either(self.argument, self.call_close)
        value_end = _either(
            f"(?:{self.argument_close})(?=\\s*{after_value})",
            f"(?:{self.call_close})(?=\\s*{after_call})",
            f"(?:{self.wrapper_close})(?=\\s*{after_wrapper})" if self.has_wrapper else NOTHING,
            f"(?:{self.wrapper})(?=\\s*{_either(self.call)})" if self.has_wrapper else NOTHING,
            f"(?:{self.call})(?=\\s*{begun})",
        )
        return Patterns(
            wrapper=re.compile(self.wrapper),
            wrapper_close=re.compile(self.wrapper_close),
            call=re.compile(self.call),
            call_close=re.compile(self.call_close),
            argument=re.compile(self.argument),
            value_end=re.compile(f"{value_end}|(?:{self.argument})"),
            argument_close=re.compile(self.argument_close),
            boundary=re.compile(_either(self.call, self.wrapper_close, self.wrapper)),
            resume=re.compile(_either(self.call, self.call_close, self.wrapper_close, self.wrapper, self.argument)),
        )


class Patterns(NamedTuple):
    wrapper: re.Pattern[str]
    wrapper_close: re.Pattern[str]
    call: re.Pattern[str]
    call_close: re.Pattern[str]
    argument: re.Pattern[str]
    argument_close: re.Pattern[str]
    value_end: re.Pattern[str]
    boundary: re.Pattern[str]
    resume: re.Pattern[str]


def _either(*patterns: str) -> str:
    """One expression for several, without group names, which may stand once only, and without those that match nowhere.

    Each begins with the same character: the engine then looks for that alone.
    """
    alternatives = (re.sub(r"\(\?P<\w+>", "(?:", pattern) for pattern in patterns if pattern != NOTHING)
    return f"(?:{'|'.join(alternatives)})"
