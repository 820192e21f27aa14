"""Token ids as what a parser reads: a marker that is one token of the vocabulary counts only where that token stands.

A model can spell `<tool_call>` with ordinary tokens, in a string or because it read it somewhere; such text is no marker.
It is kept from being one by a character of the private use area, which is taken out again once calls are found.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

PRIVATE_USE = [chr(code) for code in range(0xE000, 0xE100)]
SHORTEST_MARKER = 3


class AddedToken(Protocol):
    """How a Hugging Face tokenizer tells of a token beside its model's own ones."""

    content: str


class HuggingFaceTokenizer(Protocol):
    """What is asked of a tokenizer of transformers; any of its tokenizers will do."""

    @property
    def added_tokens_decoder(self) -> Mapping[int, AddedToken]: ...

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str: ...


class Vocabulary(NamedTuple):
    """Which ids are markers, as their texts, and how a run of ids becomes text, special tokens included."""

    markers: Mapping[int, str]
    decode: Callable[[Sequence[int]], str]

    @classmethod
    def of(cls, tokenizer: HuggingFaceTokenizer) -> "Vocabulary":
        """The vocabulary of a tokenizer. Every added token is a marker: Qwen's `<tool_call>` is not even "special"."""
        markers = {number: token.content for number, token in tokenizer.added_tokens_decoder.items()}
        return cls(markers, lambda ids: tokenizer.decode(list(ids), skip_special_tokens=False))


class SampledTokens(NamedTuple):
    """What was sampled, as token ids: `parse(SampledTokens(ids, vocabulary), tools)`."""

    ids: Sequence[int]
    vocabulary: Vocabulary

    def guarded(self) -> tuple[str, str]:
        """The text, and the character that stands in each would-be marker of ordinary tokens; "" where there is none."""
        pieces = self._pieces()
        plain = "".join(text for text, is_marker in pieces if not is_marker)
        present = {marker for marker in self.vocabulary.markers.values() if marker in plain and can_be_spoofed(marker)}
        text = "".join(text for text, _ in pieces)
        guard = next((one for one in PRIVATE_USE if one not in text), "")
        if not present or not guard:
            return text, ""
        for marker in sorted(present, key=len):
            kept = marker[0] + guard + marker[1:]
            pieces = [(text if is_marker else text.replace(marker, kept), is_marker) for text, is_marker in pieces]
        return "".join(text for text, _ in pieces), guard

    def _pieces(self) -> list[tuple[str, bool]]:
        """The text in order: (a marker's, True) and (what stands between, False)."""
        markers, pieces, run, before = self.vocabulary.markers, [], [], None
        for number in (*self.ids, None):
            if number is not None and number not in markers:
                run.append(number)
                continue
            if run:
                pieces.append((self._run(run, before), False))
            if number is not None:
                pieces.append((markers[number], True))
            run, before = [], number
        return pieces

    def _run(self, run: list[int], before: int | None) -> str:
        """Ordinary tokens as text. Some decoders drop the blank that a text begins with: the marker before is kept in."""
        if before is None:
            return self.vocabulary.decode(run)
        marker = self.vocabulary.markers[before]
        together = self.vocabulary.decode([before, *run])
        return together[len(marker) :] if together.startswith(marker) else self.vocabulary.decode(run)


def can_be_spoofed(marker: str) -> bool:
    """Whether a marker is one at all: some vocabularies add words and runs of blanks."""
    return len(marker) >= SHORTEST_MARKER and not marker.isalnum() and not any(one.isspace() for one in marker)
