"""The other direction: messages to token ids, and a conversation whose prompts only ever grow.

Who may write a marker. The template's own markers become their special ids. What stands in a message cannot: a
string such as `<|im_end|>` in a tool's output is encoded as the characters that it is. It is swapped for a
placeholder before the template runs and encoded on its own afterwards; a conversation without such strings gets
exactly the ids of transformers' `apply_chat_template`. In user and tool messages no added token is recognised; in
system and assistant messages and in tool specifications only control tokens (`"special": true`) are not, so that
`<think>` or `<tool_call>` in them mean what the model was trained on.
"""

import json
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Self

from pydantic import JsonValue
from tokenizers import Tokenizer

from core.errors import ConfigError
from core.types import JsonObject, Message, TokenIds, ToolSpec, Turn
from tool_call_parsers.chat_template import ChatTemplate
from tool_call_parsers.schemas import is_text

SPECIAL_TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
UNTRUSTED_ROLES = ("user", "tool")

Spoken = Message | JsonObject
Offered = ToolSpec | JsonObject


class Renderer:
    """A tokenizer with its chat template. Holds no conversation; safe to share between threads and tasks."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate, eos_ids: Sequence[int]) -> None:
        """`eos_ids`: the ids that end a turn, the template's own first; at least one."""
        if not eos_ids:
            raise ConfigError("the tokenizer names no end-of-turn token: eos_token in tokenizer_config.json is missing")
        self.tokenizer, self.template, self.eos_ids = tokenizer, template, tuple(eos_ids)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._plain = _without_added_tokens(tokenizer)
        added = {index: token for index, token in tokenizer.get_added_tokens_decoder().items() if token.content.strip()}
        self._added_ids = frozenset(added)
        self._added = _any_of([token.content for token in added.values()])
        self._control = _any_of([token.content for token in added.values() if token.special])

    @classmethod
    def from_directory(cls, path: Path | str) -> Self:
        """The renderer of a model directory in Hugging Face's layout.

        Reads tokenizer.json, tokenizer_config.json, chat_template.jinja, generation_config.json and config.json;
        the first is required, and a template in one of two places. Raises ConfigError naming what is missing.
        """
        files = _ModelFiles(Path(path))
        tokenizer = files.tokenizer()
        variables = files.special_tokens()
        return cls(tokenizer, ChatTemplate(files.template(), variables), files.eos_ids(tokenizer, variables))

    @property
    def vocab_size(self) -> int:
        """Number of token ids, added tokens included."""
        return self.tokenizer.get_vocab_size(with_added_tokens=True)

    def render(
        self, messages: Sequence[Spoken], tools: Sequence[Offered] = (), *, add_generation_prompt: bool = True
    ) -> list[int]:
        """Token ids of a conversation. Messages and tools are natgym's or OpenAI's. Raises RenderError."""
        shield = _Shield(self, messages, tools)
        return self._ids(shield, shield.text(len(messages), add_generation_prompt))

    def encode(self, text: str) -> list[int]:
        """Ids of a text in which markers are markers: a prompt of ours, or what a model would have sampled."""
        return self.tokenizer.encode(_utf8(text), add_special_tokens=False).ids

    def encode_plain(self, text: str) -> list[int]:
        """Ids of a text in which nothing is a marker."""
        ids = self._plain.encode(_utf8(text), add_special_tokens=False).ids
        if len(text) < 2 or self._added_ids.isdisjoint(ids):
            return ids
        middle = len(text) // 2  # the model's own vocabulary holds the marker as one word
        return self.encode_plain(text[:middle]) + self.encode_plain(text[middle:])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens included; broken UTF-8 becomes U+FFFD."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=False)

    def without_eos(self, ids: Sequence[int]) -> Sequence[int]:
        """The ids without the end-of-turn token at their end, if one is there."""
        return ids[:-1] if ids and ids[-1] in self.eos_ids else ids

    def bridge(self, message: Message, new: Sequence[Message], tools: Sequence[Offered], reasoned: bool) -> list[int] | None:
        """Ids from the end-of-turn token of `message`, through `new`, to the next generation prompt.

        None where the template would rewrite what stands before: the prompt cannot be extended then. `reasoned`:
        the conversation holds reasoning, which a template may drop from history. `message` itself is not encoded.
        """
        if reasoned and message.reasoning is None:
            message = message.model_copy(update={"reasoning": "."})
        shield = _Shield(self, [{"role": "user", "content": "."}, message, *new], tools)
        before, after = shield.text(2, False), shield.text(2 + len(new), True)
        start = self._turn_end(before)
        return self._ids(shield, after[start:]) if start is not None and after.startswith(before) else None

    def _turn_end(self, text: str) -> int | None:
        """Where the end-of-turn token stands that closes a text, if only white space follows it."""
        closers = [self.tokenizer.id_to_token(index) or "" for index in self.eos_ids]
        start, closer = max((text.rfind(closer), closer) for closer in closers)
        return start if start >= 0 and not text[start + len(closer) :].strip() else None

    def _ids(self, shield: "_Shield", text: str) -> list[int]:
        return [
            index for piece in shield.pieces(text) for index in (self.encode_plain if piece.plain else self.encode)(piece.text)
        ]

    def markers(self, *, trusted: bool) -> re.Pattern[str]:
        """What no message may write as a marker: control tokens, and any added token where the text is untrusted."""
        return self._control if trusted else self._added


class TokenSession:
    """The prompts of one conversation: prompt n+1 = prompt n + sampled ids n + bridge to the next turn.

    Sampled ids are never decoded and encoded again. Where the template cannot be extended, the conversation is
    rendered anew and `forks` counts it.
    """

    def __init__(self, renderer: Renderer, tools: Sequence[ToolSpec] = ()) -> None:
        self.renderer, self.tools, self.forks = renderer, tuple(tools), 0

    def first(self, messages: Sequence[Message]) -> TokenIds:
        """The prompt of the first turn."""
        return tuple(self.renderer.render(messages, self.tools))

    def next(self, messages: Sequence[Message], turns: Sequence[Turn]) -> TokenIds:
        """The prompt after `turns` (at least one) of a conversation that began with `messages`."""
        last = turns[-1]
        reasoned = any(message.reasoning is not None for message in (*messages, *(turn.message for turn in turns)))
        bridge = self.renderer.bridge(last.message, last.observations, self.tools, reasoned)
        if bridge is None:
            self.forks += 1
            return self.first(history(messages, turns))
        ended = bool(last.completion_ids) and last.completion_ids[-1] in self.renderer.eos_ids
        return (*last.prompt_ids, *last.completion_ids, *(bridge[1:] if ended else bridge))

    def prompt(self, messages: Sequence[Message], turns: Sequence[Turn]) -> TokenIds:
        """The prompt of the next turn, whether it is the first or a later one."""
        return self.next(messages, turns) if turns else self.first(messages)


def history(messages: Sequence[Message], turns: Sequence[Turn]) -> tuple[Message, ...]:
    """The conversation so far, as messages."""
    return (*messages, *(spoken for turn in turns for spoken in (turn.message, *turn.observations)))


def count_forks(turns: Sequence[Turn]) -> int:
    """Turns whose prompt does not begin with the turn before it: each starts a sample of its own."""
    return sum(not extends(before, after) for before, after in pairwise(turns))


def extends(before: Turn, after: Turn) -> bool:
    """Whether the prompt of `after` begins with prompt and completion of `before`, id by id."""
    whole = (*before.prompt_ids, *before.completion_ids)
    return after.prompt_ids[: len(whole)] == whole


class _Piece(NamedTuple):
    text: str
    plain: bool


class _Shield:
    """A conversation as plain data for a template, with placeholders for markers that a message spelled."""

    def __init__(self, renderer: Renderer, messages: Sequence[Spoken], tools: Sequence[Offered]) -> None:
        self._renderer = renderer
        spoken = [_message_data(message) for message in messages]
        offered = [tool.to_openai() if isinstance(tool, ToolSpec) else tool for tool in tools]
        self._found: list[str] = []
        self._mark = ""
        everything = [*spoken, *offered]
        self._spoken = [self._shielded(one, everything, one.get("role") not in UNTRUSTED_ROLES) for one in spoken]
        self._offered = [self._shielded(one, everything, True) for one in offered]

    def text(self, count: int, generation_prompt: bool) -> str:
        """The first `count` messages as text, placeholders in place."""
        return self._renderer.template.text(self._spoken[:count], self._offered, generation_prompt=generation_prompt)

    def pieces(self, text: str) -> list[_Piece]:
        """The text, cut at its placeholders, with what they stand for put back."""
        parts = re.split(rf"{self._mark}(\d+)z", text) if self._found else [text]
        return [
            _Piece(self._found[int(part)], True) if number % 2 else _Piece(part, False)
            for number, part in enumerate(parts)
            if part
        ]

    def _shielded(self, value: JsonObject, everything: Sequence[JsonObject], trusted: bool) -> JsonObject:
        def walk(item: JsonValue) -> JsonValue:
            if isinstance(item, str):
                return marker.sub(placeholder, item)
            if isinstance(item, list):
                return [walk(one) for one in item]
            if isinstance(item, dict):
                return {marker.sub(placeholder, key): walk(one) for key, one in item.items()}
            return item

        def placeholder(match: re.Match[str]) -> str:
            self._mark = self._mark or _unused_mark(json.dumps(everything) + self._renderer.template.source)
            self._found.append(match.group())
            return f"{self._mark}{len(self._found) - 1}z"

        marker = self._renderer.markers(trusted=trusted)
        return {key: walk(item) for key, item in value.items()}


def _message_data(message: Spoken) -> JsonObject:
    """A message as templates read it: arguments as objects, reasoning under both of its names."""
    data = message.to_openai() if isinstance(message, Message) else dict(message)
    reasoning = next(
        (data[name] for name in ("reasoning_content", "thinking", "reasoning") if data.get(name) is not None), None
    )
    if reasoning is not None:
        data = {"thinking": reasoning, **data, "reasoning_content": reasoning}
    calls = data.get("tool_calls")
    if isinstance(calls, list):
        data["tool_calls"] = [_call_data(call) for call in calls if isinstance(call, dict)]
    return data


def _call_data(call: JsonObject) -> JsonValue:
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(str(function["arguments"]))
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": arguments}}


def _unused_mark(text: str) -> str:
    number = 0
    while f"zq{number}q" in text:
        number += 1
    return f"zq{number}q"


def _utf8(text: str) -> str:
    """The text with halves of surrogate pairs replaced, which no tokenizer takes."""
    return text if is_text(text) else text.encode(errors="replace").decode()


def _any_of(words: Sequence[str]) -> re.Pattern[str]:
    """A pattern of any of these words, the longest first; of nothing at all where there is none."""
    return re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))) or r"(?!)")


def _without_added_tokens(tokenizer: Tokenizer) -> Tokenizer:
    data = json.loads(tokenizer.to_str())
    return Tokenizer.from_str(json.dumps({**data, "added_tokens": [], "post_processor": None}))


class _ModelFiles:
    """The files of a model directory that say how to talk to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._config = self._read("tokenizer_config.json")

    def tokenizer(self) -> Tokenizer:
        file = self.path / "tokenizer.json"
        if not file.is_file():
            raise ConfigError(f"{file}: not found; expected a model directory with a tokenizer.json")
        try:
            return Tokenizer.from_file(str(file))
        except Exception as error:  # the tokenizers library raises plain Exception
            raise ConfigError(f"{file}: not a tokenizer: {error}") from error

    def template(self) -> str:
        file = self.path / "chat_template.jinja"
        if file.is_file():
            return file.read_text(encoding="utf-8")
        template = self._config.get("chat_template")
        if isinstance(template, list):
            named = {str(one["name"]): one["template"] for one in template if isinstance(one, dict)}
            template = named.get("tool_use", named.get("default"))
        if not isinstance(template, str):
            raise ConfigError(f"{file}: not found, and tokenizer_config.json holds no chat_template")
        return template

    def special_tokens(self) -> dict[str, str]:
        """`bos_token` and its like, as text."""
        found = {name: self._config.get(name) for name in SPECIAL_TOKEN_NAMES}
        texts = {name: token.get("content") if isinstance(token, dict) else token for name, token in found.items()}
        return {name: text for name, text in texts.items() if isinstance(text, str)}

    def eos_ids(self, tokenizer: Tokenizer, variables: Mapping[str, str]) -> tuple[int, ...]:
        """Every id that ends a turn: the tokenizer's, the generation config's, the model's."""
        own = tokenizer.token_to_id(variables["eos_token"]) if "eos_token" in variables else None
        named = [own, self._read("generation_config.json").get("eos_token_id"), self._read("config.json").get("eos_token_id")]
        flat = [index for one in named for index in (one if isinstance(one, list) else [one])]
        known = [index for index in flat if isinstance(index, int) and tokenizer.id_to_token(index) is not None]
        return tuple(dict.fromkeys(known))

    def _read(self, name: str) -> JsonObject:
        file = self.path / name
        if not file.is_file():
            return {}
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"{file}: not JSON: {error}") from error
        if not isinstance(data, dict):
            raise ConfigError(f"{file}: expected an object, found {type(data).__name__}")
        return data
