"""Ids of tool calls: kept as the model wrote them, in the form that a template asks for, unique in a conversation."""

import re
from collections.abc import Iterable
from enum import StrEnum
from hashlib import sha256

from core.types import ToolCall
from tool_call_parsers.base import ParsedCompletion

NINE = re.compile(r"[a-zA-Z0-9]{9}")
ASKS_FOR_NINE = re.compile(r"(id|ID)\S*\s*\|\s*length\s*(==|!=)\s*9")
COUNTED = re.compile(r"(?P<stem>.*:)(?P<number>\d{1,9})", re.DOTALL)


class IdForm(StrEnum):
    """How a chat template wants ids to look."""

    VERBATIM = "verbatim"
    """As they are: Kimi's templates print `functions.f:0`, and the model goes on counting from there."""
    NINE = "nine"
    """Nine letters and digits: Mistral's templates refuse anything else."""

    def of(self, call_id: str) -> str:
        """The id in this form; the same id always gives the same."""
        if self is IdForm.VERBATIM or NINE.fullmatch(call_id):
            return call_id
        return sha256(call_id.encode(errors="replace")).hexdigest()[:9]

    @classmethod
    def asked_by(cls, template: str) -> "IdForm":
        """The form that the source of a chat template insists on."""
        return cls.NINE if ASKS_FOR_NINE.search(template) else cls.VERBATIM


class CallIds:
    """The ids that a conversation uses: an answer must belong to one call.

    A call whose id is taken gets another one: Kimi's go on counting (`functions.f:3`), others get a number. What was
    sampled stays as it was sampled.
    """

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._used = set(taken)
        self._last = dict[str, int]()  # number by stem, so that many equal ids take linear time

    def own(self, call: ToolCall) -> ToolCall:
        """The call, its id its own from now on."""
        call_id = self._free(call.id)
        self._used.add(call_id)
        return call if call_id == call.id else call.model_copy(update={"id": call_id})

    def _free(self, call_id: str) -> str:
        if call_id not in self._used:
            return call_id
        counted = COUNTED.fullmatch(call_id)
        stem, number = (counted["stem"], int(counted["number"])) if counted else (f"{call_id}:", 0)
        number = max(number, self._last.get(stem, 0)) + 1
        while f"{stem}{number}" in self._used:
            number += 1
        self._last[stem] = number
        return f"{stem}{number}"


def with_own_ids(parsed: ParsedCompletion, taken: Iterable[str] = ()) -> ParsedCompletion:
    """The completion, with another id for each call whose id is taken."""
    ids = CallIds(taken)
    calls = tuple(map(ids.own, parsed.calls))
    malformed = tuple(
        bad if bad.call is None else bad.model_copy(update={"call": ids.own(bad.call)}) for bad in parsed.malformed
    )
    return parsed.model_copy(update={"calls": calls, "malformed": malformed})
