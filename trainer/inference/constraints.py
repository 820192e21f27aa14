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
from trainer.inference.call_grammars import SHAPES, CallShape, ElementRules, Rules

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

INSTALL = "constrained sampling needs the package llguidance: pip install 'natgym[constrained]'"
ANY_OBJECT: JsonObject = {"type": "object"}


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
        """In llguidance's dialect of Lark. Raises UserError for what it cannot say."""
        renderer = self._reader.renderer
        rules = Rules(renderer.markers, renderer.encoding.index)
        calls = [self._call(rules, shape, call) for call in demand.calls]
        call = rules.rule(" | ".join(calls))
        more = f"({rules.literal(shape.between)} {call})*" if demand.parallel and shape.several else ""
        told = rules.rule(f"{rules.literal(shape.open)} {call} {more} {rules.literal(shape.close)}")
        thought = self._thought(rules, shape, in_reasoning)
        if demand.required:
            return rules.text(f"{thought} {told}")
        if shape.answer:
            return rules.text(f"{thought} ({rules.literal(shape.answer)} TEXT | {told})")
        if not rules.literal(shape.open or shape.begin).startswith("<["):
            raise UserError(
                f"strict tools need a tool_choice with {self._reader.parser.name!r} and this tokenizer: "
                "their calls begin with ordinary text, which may stand in any answer"
            )
        said = rules.rule(f"TEXT {told}")
        return rules.text(f"{thought} {said}{'*' if demand.parallel and shape.several else '?'} TEXT")

    def _call(self, rules: Rules, shape: CallShape, call: AllowedCall) -> str:
        """The name of the rule of one tool's calls."""
        begin = rules.literal(f"{shape.begin}{_in_json(call.name)}{shape.arguments}")
        if shape.elements is None:
            arguments = f"%json {json.dumps(call.schema)}"
        else:
            arguments = ElementRules(rules, shape.elements, call.schema).arguments(call.schema)
        return rules.rule(f"{begin} {arguments} {rules.literal(shape.end)}")

    def _thought(self, rules: Rules, shape: CallShape, in_reasoning: bool) -> str:
        """Reasoning before the rest: its end where the prompt opened it, else a whole block or none."""
        form = self._reader.reasoning
        if shape.thought is None and (form.kept_in_content or not form.openers or not form.closers):
            return ""
        around = shape.thought or (form.openers[0], form.closers[0])
        opener, closer = (rules.literal(one) for one in around)
        if not (opener.startswith("<[") and closer.startswith("<[")):
            return ""  # markers of ordinary tokens: free text may hold them
        return f"TEXT {closer} BLANK" if in_reasoning else f"({opener} TEXT {closer} BLANK)?"


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


def _in_json(name: str) -> str:
    """A name as it stands inside the quotes of a JSON string; plain names stay as they are."""
    return json.dumps(name, ensure_ascii=False)[1:-1] if re.search(r'["\\\x00-\x1f]', name) else name
