"""The other direction: messages to token ids, and from a sampled turn to the next prompt.

Who may write a marker. The template's own markers become their special ids. What stands in a message cannot: a
string such as `<|im_end|>` in a tool's output is encoded as the characters that it is. It is swapped for a
placeholder before the template runs and encoded on its own afterwards; a conversation without such strings gets
exactly the ids of transformers' `apply_chat_template`. In user and tool messages no added token is recognised; in
system and assistant messages and in tool specifications only control tokens (`"special": true`) are not, so that
`<think>` or `<tool_call>` in them mean what the model was trained on.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from pydantic import JsonValue

from core.errors import ConfigError
from core.logs import get_logger
from core.types import JsonObject, Message, Role, ToolCall, ToolSpec
from tool_call_parsers.bridge import ASK, Bridge, Ends, find_bridge, stand_ins
from tool_call_parsers.call_ids import IdForm
from tool_call_parsers.chat_template import ChatTemplate, RenderError, TokenizerTemplate
from tool_call_parsers.encoding import ChatTokenizer, Encoding, FastEncoding, encoding_of
from tool_call_parsers.model_files import ModelFiles
from tool_call_parsers.shield import Markers, MessageForm, Offered, Shield, Spoken, Template, any_of
from tool_call_parsers.tokens import SampledTokens, Vocabulary

log = get_logger("renderer")

MAX_PROOFS = 64
"""Sets of tools whose proof is kept."""


class BridgeProof(NamedTuple):
    """What was found out about a template with one set of tools, on short conversations of every shape."""

    exact: bool
    """Bridges give the ids of the whole conversation, rendered and encoded at once."""
    needs_tools: bool
    """A bridge differs where the tools are left out; else they need not be rendered for one."""
    shapes: tuple[str, ...]
    """Shapes that the template takes and that can be bridged."""


class _BridgeFound(NamedTuple):
    """A bridge, and the conversation with a stand-in by which it was found."""

    bridge: Bridge
    conversation: list[Spoken]


class Renderer:
    """A tokenizer with its chat template. Holds no conversation; safe to share between threads and tasks."""

    def __init__(self, encoding: Encoding, template: Template, eos_ids: Sequence[int]) -> None:
        """`eos_ids`: the ids that end a turn, the template's own first; at least one."""
        if not eos_ids:
            raise ConfigError("the tokenizer names no end-of-turn token: eos_token in tokenizer_config.json is missing")
        self.encoding, self.template, self.eos_ids = encoding, template, tuple(eos_ids)
        self._form = MessageForm(IdForm.asked_by(template.source), _wants_text(template))
        added = list(encoding.added.values())
        control = any_of([token.text for token in added if token.control])
        self._markers = Markers(control, any_of([token.text for token in added]))
        self._ends = Ends(tuple(encoding.decode([index]) for index in self.eos_ids), control)
        self.vocabulary = Vocabulary({index: token.text for index, token in encoding.added.items()}, encoding.decode)
        self._proofs = dict[str, BridgeProof]()
        self._asked_before = dict[int, tuple[Sequence[Offered], BridgeProof]]()

    @classmethod
    def from_directory(cls, path: Path | str, variables: Mapping[str, JsonValue] | None = None) -> Self:
        """The renderer of a model directory in Hugging Face's layout.

        Reads tokenizer.json, tokenizer_config.json, chat_template.jinja, generation_config.json and config.json;
        the first is required, and a template in one of two places. `variables` are switches of the template
        (`enable_thinking`). Raises ConfigError naming what is missing.
        """
        files = ModelFiles(Path(path))
        tokenizer = files.tokenizer()
        special = files.special_tokens()
        template = ChatTemplate(files.template(), {**special, **(variables or {})})
        return cls(FastEncoding(tokenizer), template, files.eos_ids(tokenizer, special))

    @classmethod
    def from_tokenizer(
        cls,
        tokenizer: ChatTokenizer,
        eos_tokens: Iterable[str] = (),
        variables: Mapping[str, JsonValue] | None = None,
    ) -> Self:
        """The renderer of a tokenizer of transformers. `eos_tokens`: what ends a turn beside its `eos_token`.

        Raises ConfigError where it knows no end-of-turn token.
        """
        encoding = encoding_of(tokenizer)
        special = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
        given = {**special, **(variables or {})}
        own = tokenizer.chat_template
        source = own.get("tool_use", own.get("default")) if isinstance(own, dict) else own
        plain = ChatTemplate(source, given) if source is not None else TokenizerTemplate(tokenizer.apply_chat_template, given)
        named = [special.get("eos_token"), *eos_tokens]
        found = [encoding.index(token) for token in named if token is not None]
        return cls(encoding, plain, tuple(dict.fromkeys(index for index in found if index is not None)))

    @property
    def markers(self) -> re.Pattern[str]:
        """Any token that was added to the vocabulary as a whole."""
        return self._markers.untrusted

    @property
    def vocab_size(self) -> int:
        """Number of token ids, added tokens included."""
        return self.encoding.vocab_size

    def render(
        self, messages: Sequence[Spoken], tools: Sequence[Offered] = (), *, add_generation_prompt: bool = True
    ) -> list[int]:
        """Token ids of a conversation. Messages and tools are natgym's or OpenAI's. Raises RenderError."""
        shield = self._shield(messages, tools)
        return self._ids(shield, shield.text(len(messages), add_generation_prompt))

    def encode(self, text: str) -> list[int]:
        """Ids of a text in which markers are markers: a prompt of ours, or what a model would have sampled."""
        return self.encoding.encode(text)

    def encode_plain(self, text: str) -> list[int]:
        """Ids of a text in which nothing is a marker."""
        return self.encoding.encode_plain(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens included; broken UTF-8 becomes U+FFFD."""
        return self.encoding.decode(ids)

    def without_eos(self, ids: Sequence[int]) -> Sequence[int]:
        """The ids without the end-of-turn token at their end, if one is there."""
        return ids[:-1] if ids and ids[-1] in self.eos_ids else ids

    def sampled(self, ids: Sequence[int]) -> SampledTokens:
        """A completion as a parser reads it, without its end-of-turn token."""
        return SampledTokens(self.without_eos(ids), self.vocabulary)

    def bridge(
        self, message: Message, new: Sequence[Message], tools: Sequence[Offered] = (), *, reasoned: bool = False
    ) -> Bridge | None:
        """From the end of a turn that said `message`, through `new`, to the next generation prompt.

        None where the template would rewrite what stands before it, or closes turns in no way that can be found.
        `reasoned`: the conversation holds reasoning, which a template may drop from history.
        """
        proof = self.proof(tools)
        found = self._bridge(message, new, tools if proof.needs_tools else (), reasoned) if proof.exact else None
        return found.bridge if found is not None else None

    def proof(self, tools: Sequence[Offered] = ()) -> BridgeProof:
        """Whether bridges are exact for this template and these tools; tried once, on stand-ins, then remembered."""
        same, found = self._asked_before.get(id(tools), ((), None))
        if found is not None and same is tools:
            return found
        key = json.dumps([tool.to_openai() if isinstance(tool, ToolSpec) else tool for tool in tools])
        found = self._proofs.get(key)
        if found is None:
            if len(self._proofs) >= MAX_PROOFS:
                self._proofs.pop(next(iter(self._proofs)), None)
            found = self._proofs[key] = self._prove(tools)
            log.debug("bridge_proved", tools=len(tools), **found._asdict())
        if isinstance(tools, tuple) and all(isinstance(tool, ToolSpec) for tool in tools):  # these cannot change
            if len(self._asked_before) >= MAX_PROOFS:
                self._asked_before.pop(next(iter(self._asked_before)), None)
            self._asked_before[id(tools)] = (tools, found)
        return found

    def _prove(self, tools: Sequence[Offered]) -> BridgeProof:
        bridged: list[str] = []
        exact, needs_tools = True, False
        for shape, (message, new) in SHAPES.items():
            for reasoned in (False, True):
                found = self._bridge(message, new, tools, reasoned)
                needs_tools = needs_tools or (bool(tools) and self._bridge(message, new, (), reasoned) != found)
                if found is not None:
                    bridged.append(f"{shape}, with reasoning" if reasoned else shape)
                    whole = self.render(found.conversation, tools)
                    exact = exact and tuple(whole[-len(found.bridge.ids) :]) == found.bridge.ids
        return BridgeProof(exact, needs_tools, tuple(bridged))

    def _bridge(
        self, message: Message, new: Sequence[Message], tools: Sequence[Offered], reasoned: bool
    ) -> "_BridgeFound | None":
        """The bridge by the first stand-in that has one."""
        for turn in stand_ins(message, reasoned=reasoned):
            spoken: list[Spoken] = [ASK, turn, *new]
            bridge = find_bridge(self._shield(spoken, tools), len(spoken), self._ends, self._ids)
            if bridge is not None:
                return _BridgeFound(bridge, spoken)
        return None

    def _shield(self, messages: Sequence[Spoken], tools: Sequence[Offered]) -> Shield:
        return Shield(self.template, self._markers, messages, tools, self._form)

    def _ids(self, shield: Shield, text: str) -> list[int]:
        return [
            index for piece in shield.pieces(text) for index in (self.encode_plain if piece.plain else self.encode)(piece.text)
        ]


def _wants_text(template: Template) -> bool:
    """Whether a template takes the arguments of a call as JSON text only: DeepSeek V3's puts them into its own text."""
    arguments: tuple[JsonValue, JsonValue] = ({"a": 1}, '{"a": 1}')
    taken: list[bool] = []
    for one in arguments:
        call: JsonObject = {"id": "abcdefgh1", "type": "function", "function": {"name": "f", "arguments": one}}
        try:
            template.text([ASK, {"role": "assistant", "content": "", "tool_calls": [call]}], (), generation_prompt=False)
        except RenderError:
            taken.append(False)
        else:
            taken.append(True)
    return taken == [False, True]


def _called(*names: str) -> Message:
    calls = tuple(ToolCall(id=f"functions.{name}:{number}", name=name, arguments="{}") for number, name in enumerate(names))
    return Message(role=Role.ASSISTANT, content="Right.", tool_calls=calls)


def _answers(*texts: str) -> tuple[Message, ...]:
    names = ("f", "g")
    return tuple(
        Message(role=Role.TOOL, content=text, tool_call_id=f"functions.{names[number]}:{number}")
        for number, text in enumerate(texts)
    )


SHAPES: dict[str, tuple[Message, tuple[Message, ...]]] = {
    "a question": (_called(), (Message(role=Role.USER, content="And now?"),)),
    "an answer": (_called("f"), _answers('{"ok": true}')),
    "two answers": (_called("f", "g"), _answers("one", "two\n")),
    "characters of other scripts": (_called("f"), _answers("Grüße, 世界 🌍")),
    "an answer and a question": (_called("f"), (*_answers("ok"), Message(role=Role.USER, content="And now?"))),
}
"""What may follow a turn: the turn, and the new messages."""
