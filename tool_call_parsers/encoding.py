"""Tokenizers behind one interface: text to ids with markers as markers or as plain text, and back.

`tokenizer.json` files and the fast tokenizers of transformers go through the `tokenizers` library; those that are
written in Python (tiktoken, sentencepiece) through transformers' own methods. Neither transformers nor torch is
imported here.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from tokenizers import AddedToken, Tokenizer

from tool_call_parsers.schemas import is_text


class AddedText(NamedTuple):
    """A token that was added to the vocabulary as a whole; `control` tokens structure a conversation."""

    text: str
    control: bool


class Encoding(Protocol):
    """What a renderer needs of a tokenizer. Never adds tokens of its own at begin or end."""

    @property
    def added(self) -> Mapping[int, AddedText]:
        """Every added token that is more than white space, by id."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of token ids, added tokens included."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of a text in which markers are markers."""
        ...

    def encode_plain(self, text: str) -> list[int]:
        """Ids of a text in which nothing is a marker."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens included."""
        ...

    def index(self, token: str) -> int | None:
        """The id of a token."""
        ...


class FastEncoding:
    """A tokenizer of the `tokenizers` library."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer, self._plain = tokenizer, _without_added_tokens(tokenizer)
        self.added = _added(tokenizer.get_added_tokens_decoder())

    @property
    def vocab_size(self) -> int:
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(_utf8(text), add_special_tokens=False).ids

    def encode_plain(self, text: str) -> list[int]:
        ids = self._plain.encode(_utf8(text), add_special_tokens=False).ids
        return ids if self.added.keys().isdisjoint(ids) else _in_halves(self, text, ids)

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)

    def index(self, token: str) -> int | None:
        return self._tokenizer.token_to_id(token)

    def to_json(self) -> str:
        """The tokenizer.json of it."""
        return self._tokenizer.to_str()


class ChatTokenizer(Protocol):
    """The part of transformers' tokenizers that is used; all of them have it."""

    chat_template: str | dict[str, str] | None
    added_tokens_decoder: dict[int, AddedToken]
    special_tokens_map: dict[str, str]

    def __len__(self) -> int: ...

    def encode(self, text: str, *, add_special_tokens: bool, split_special_tokens: bool = ...) -> list[int]: ...

    def decode(self, ids: list[int], *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool = ...) -> str: ...

    def convert_tokens_to_ids(self, token: str) -> int | None: ...

    def apply_chat_template(self, conversation: list[object], **options: object) -> object: ...


class SlowEncoding:
    """A tokenizer of transformers that has no fast twin."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        self.added = _added(tokenizer.added_tokens_decoder)

    @property
    def vocab_size(self) -> int:
        return len(self._tokenizer)

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(_utf8(text), add_special_tokens=False)

    def encode_plain(self, text: str) -> list[int]:
        ids = self._tokenizer.encode(_utf8(text), add_special_tokens=False, split_special_tokens=True)
        return ids if self.added.keys().isdisjoint(ids) else _in_halves(self, text, ids)

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def index(self, token: str) -> int | None:
        found = self._tokenizer.convert_tokens_to_ids(token)
        return found if isinstance(found, int) else None


def encoding_of(tokenizer: ChatTokenizer) -> Encoding:
    """The encoding of a tokenizer of transformers, the fast one where there is one."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if isinstance(backend, Tokenizer):
        return FastEncoding(Tokenizer.from_str(backend.to_str()))
    return SlowEncoding(tokenizer)


def _in_halves(encoding: Encoding, text: str, ids: list[int]) -> list[int]:
    """For a marker that the model's own vocabulary holds as one word: no half of it is one."""
    if len(text) < 2:
        return ids
    middle = len(text) // 2
    return encoding.encode_plain(text[:middle]) + encoding.encode_plain(text[middle:])


def _added(tokens: Mapping[int, AddedToken]) -> dict[int, AddedText]:
    return {index: AddedText(token.content, token.special) for index, token in tokens.items() if token.content.strip()}


def _without_added_tokens(tokenizer: Tokenizer) -> Tokenizer:
    data = json.loads(tokenizer.to_str())
    return Tokenizer.from_str(json.dumps({**data, "added_tokens": [], "post_processor": None}))


def _utf8(text: str) -> str:
    """The text with halves of surrogate pairs replaced, which no tokenizer takes."""
    return text if is_text(text) else text.encode(errors="replace").decode()
