"""Constrained sampling: a mask of allowed tokens a step, so that a turn must contain well-formed calls.

The work is llguidance's, an extra. Sampling under a mask draws from another distribution than the policy's: answers
say so, and turns note it.
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from core.errors import UserError
from core.types import JsonObject, TokenIds
from tool_call_parsers.encoding import FastEncoding
from tool_call_parsers.reader import CompletionReader
from trainer.inference.base import TokenConstraint

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

INSTALL = "constrained sampling needs the package llguidance: pip install 'natgym[constrained]'"
ANY_OBJECT: JsonObject = {"type": "object"}


class CallShape(NamedTuple):
    """How a format writes calls, in pieces: begin, name, arguments as JSON, end; all calls between `open` and `close`."""

    begin: str
    arguments: str
    end: str
    between: str = ""
    open: str = ""
    close: str = ""


SHAPES: dict[str, CallShape] = {
    "hermes": CallShape('<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>", between="\n"),
    "longcat": CallShape('<longcat_tool_call>{"name": "', '", "arguments": ', "}</longcat_tool_call>", between="\n"),
    "mistral": CallShape("[TOOL_CALLS]", "[ARGS]", ""),
    "deepseek_v31": CallShape(
        "<｜tool▁call▁begin｜>",  # noqa: RUF001
        "<｜tool▁sep｜>",  # noqa: RUF001
        "<｜tool▁call▁end｜>",  # noqa: RUF001
        open="<｜tool▁calls▁begin｜>",  # noqa: RUF001
        close="<｜tool▁calls▁end｜>",  # noqa: RUF001
    ),
}
"""Formats whose arguments are JSON, by the name of their parser."""


class AllowedCall(NamedTuple):
    """A tool that may be called, and the schema that its arguments must fit."""

    name: str
    schema: JsonObject


class Demand(NamedTuple):
    """What a turn must be: with calls or free text with calls in it, one call or several."""

    calls: Sequence[AllowedCall]
    required: bool
    parallel: bool = True


class Constrainer:
    """Makes constraints for one model; its tokenizer is prepared once, when the first is asked for."""

    def __init__(self, reader: CompletionReader) -> None:
        self._reader = reader
        self._prepared: LLTokenizer | None = None

    def constraint(self, demand: Demand, prompt_ids: TokenIds) -> Callable[[], TokenConstraint]:
        """What makes a fresh constraint for each completion of a prompt.

        Raises UserError where llguidance is not installed, the format or the tokenizer cannot be constrained, or a
        schema cannot be honoured.
        """
        name = self._reader.parser.name
        shape = SHAPES.get(name)
        if shape is None:
            known = ", ".join(sorted(SHAPES))
            raise UserError(f"sampling cannot be constrained in the format {name!r}; it can in: {known}")
        try:
            from llguidance import LLMatcher
        except ModuleNotFoundError as error:
            raise UserError(INSTALL) from error
        tokenizer = self._tokenizer()
        grammar = self._grammar(shape, demand, self._reader.starts_in_reasoning(prompt_ids))
        problem = LLMatcher.validate_grammar(grammar, tokenizer)
        if problem and not problem.startswith("WARNING"):
            raise UserError(f"a strict schema cannot be honoured: {problem.splitlines()[0][:300]}")
        return lambda: _Mask(LLMatcher(tokenizer, grammar))

    def _tokenizer(self) -> "LLTokenizer":
        if self._prepared is None:
            from llguidance import LLTokenizer

            encoding = self._reader.renderer.encoding
            if not isinstance(encoding, FastEncoding):
                raise UserError("sampling can be constrained with tokenizers that have a tokenizer.json only")
            try:
                self._prepared = LLTokenizer(encoding.to_json(), eos_token=list(self._reader.renderer.eos_ids))
            except BaseException as error:  # a panic of the library's is no Exception
                if isinstance(error, KeyboardInterrupt | SystemExit):
                    raise
                raise UserError(f"llguidance cannot take this model's tokenizer: {type(error).__name__}") from error
        return self._prepared

    def _grammar(self, shape: CallShape, demand: Demand, in_reasoning: bool) -> str:
        """In llguidance's dialect of Lark."""
        rules = ["%llguidance {}"]
        calls = [
            f"call_{number}: {self._literal(f'{shape.begin}{_in_json(call.name)}{shape.arguments}')} "
            f"%json {json.dumps(call.schema)} {self._literal(shape.end)}"
            for number, call in enumerate(demand.calls)
        ]
        more = f"({self._literal(shape.between)} call)*" if demand.parallel else ""
        rules.append(f"calls: {self._literal(shape.open)} call {more} {self._literal(shape.close)}")
        rules.append("call: " + " | ".join(f"call_{number}" for number in range(len(calls))))
        if demand.required:
            body = "calls"
        else:
            body = "said? TEXT" if not demand.parallel else "said* TEXT"
            rules.append("said: TEXT calls")
        rules.append(f"start: {self._thought(in_reasoning)} {body}")
        return "\n".join((*rules, *calls, "TEXT: /(.|\\n)*/", "BLANK: /[ \\n]*/")) + "\n"

    def _thought(self, in_reasoning: bool) -> str:
        """Reasoning before the rest: its end where the prompt opened it, else a whole block or none."""
        form = self._reader.reasoning
        if form.kept_in_content or not form.openers or not form.closers:
            return ""
        opener, closer = self._literal(form.openers[0]), self._literal(form.closers[0])
        if not (opener.startswith("<[") and closer.startswith("<[")):
            return ""  # markers of ordinary tokens: free text may hold them
        return f"TEXT {closer} BLANK" if in_reasoning else f"({opener} TEXT {closer} BLANK)?"

    def _literal(self, text: str) -> str:
        """A text as terminals: markers that are tokens of their own by id, the rest as strings."""
        parts: list[str] = []
        position = 0
        for match in self._reader.renderer.markers.finditer(text):
            parts.append(_quoted(text[position : match.start()]))
            parts.append(f"<[{self._reader.renderer.encoding.index(match.group())}]>")
            position = match.end()
        return " ".join(filter(None, (*parts, _quoted(text[position:]))))


class _Mask:
    """Fulfils TokenConstraint with a matcher of llguidance."""

    def __init__(self, matcher: "LLMatcher") -> None:
        self._matcher = matcher

    @property
    def problem(self) -> str:
        return self._matcher.get_error().partition("\n")[0]

    def allowed(self) -> bytes:
        return self._matcher.compute_bitmask()

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else ""


def _in_json(name: str) -> str:
    """A name as it stands inside the quotes of a JSON string; plain names stay as they are."""
    return json.dumps(name, ensure_ascii=False)[1:-1] if re.search(r'["\\\x00-\x1f]', name) else name
