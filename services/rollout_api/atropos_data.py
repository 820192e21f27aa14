"""ScoredData of Atropos 0.4.0: checked in its bytes, and written anew with every field that its clients ask for.

The rows of token ids, masks and logprobs are the bulk of it. They are looked at as text: which characters there are,
how many commas a row has, how far apart they are. An object for each token is made only where that says
that something is unusual, such as a number that came as a string, or one of ten digits.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta, Raw, Struct

from services.rollout_api.refusals import Invalid

SHORT = (np.uint32, 3)  # three words of four characters: numbers have fewer than 16, and fit into 64 bits
LONGER = (np.uint64, 4)  # numbers have fewer than 40, and are finite where no exponent makes them larger
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Dicts = list[dict[str, Any]]
NULL = Raw(b"null")


class ScoredData(Struct):
    """One group as it is sent; fields that are not here are passed over. G sequences, T tokens of one, K candidates."""

    tokens: Raw = NULL
    """(G, T) ids"""
    masks: Raw = NULL
    """(G, T) the id where it is learned from, else -100"""
    scores: Raw = NULL
    """(G,)"""
    advantages: Raw = NULL
    """(G, T), or (G, 1)"""
    ref_logprobs: Raw = NULL
    """(G, T)"""
    messages: Raw = NULL
    """G conversations"""
    generation_params: Raw = NULL
    inference_logprobs: Raw = NULL
    """(G, T) nats, 1.0 where nothing was sampled"""
    overrides: Raw = NULL
    group_overrides: Raw = NULL
    images: Raw = NULL
    env_id: Raw = NULL
    distill_token_ids: Raw = NULL
    """(G, T, K)"""
    distill_logprobs: Raw = NULL
    """(G, T, K)"""


KEYS = {name: b'%s"%s":' % (b"," if at else b"{", name.encode()) for at, name in enumerate(ScoredData.__struct_fields__)}


BEFORE_LOGPROBS = 2 * list(KEYS).index("inference_logprobs")  # keys and values


class Checked(NamedTuple):
    """A group that is in order: its JSON with all fields, how many sequences and tokens, and who sent it."""

    body: bytes
    digits_at: int
    """Where the logprobs begin in it, 0 where there are none."""
    sequences: int
    tokens: int
    env_id: int | None


class Rows(NamedTuple):
    """A list of lists of numbers: its JSON, and the length of each row."""

    json: bytes
    lengths: tuple[int, ...]


_group = msgspec.json.Decoder(ScoredData)
_groups = msgspec.json.Decoder(list[ScoredData])
_whole = msgspec.json.Decoder(list[list[Int64]], strict=False)
_real = msgspec.json.Decoder(list[list[float]], strict=False)
_deep_whole = msgspec.json.Decoder(list[list[list[Int64]]], strict=False)
_deep_real = msgspec.json.Decoder(list[list[list[float]]], strict=False)
_scores = msgspec.json.Decoder(list[float], strict=False)
_env_id = msgspec.json.Decoder(Int64 | None, strict=False)
_messages = msgspec.json.Decoder(list[Dicts] | None)
_dicts = msgspec.json.Decoder(Dicts | None)
_dict = msgspec.json.Decoder(dict[str, Any] | None)
_any = msgspec.json.Decoder(Any)


def check_group(body: bytes) -> Checked:
    """One group. Raises Invalid naming the field that is wrong."""
    return _checked(_decoded("ScoredData", _group.decode, body))


def check_groups(body: bytes) -> list[Checked]:
    """A list of groups, all of them in order. Raises Invalid naming the first field that is wrong, and in which one."""
    found: list[Checked] = []
    for number, group in enumerate(_decoded("ScoredData", _groups.decode, body)):
        try:
            found.append(_checked(group))
        except Invalid as error:
            raise Invalid(f"group {number}: {error}") from error
    return found


def _checked(group: ScoredData) -> Checked:
    for name in ("tokens", "masks", "scores"):
        if getattr(group, name) == NULL:
            raise Invalid(f"{name}: missing; tokens, masks and scores are required")
    tokens = _whole_rows("tokens", group.tokens)
    masks = _whole_rows("masks", group.masks)
    scores = _finite("scores", _decoded("scores", _scores.decode, group.scores))
    if not tokens.lengths or min(tokens.lengths) == 0:
        raise Invalid("tokens: a group has at least one sequence, and no sequence is empty")
    _same_shape("masks", masks.lengths, tokens.lengths)
    if len(scores) != len(tokens.lengths):
        raise Invalid(f"scores: {len(scores)} of them for {len(tokens.lengths)} sequences of tokens")
    written: dict[str, bytes] = {
        "tokens": tokens.json,
        "masks": masks.json,
        "scores": msgspec.json.encode(scores),
        "advantages": _loose_rows("advantages", group.advantages),
        "ref_logprobs": _logprobs("ref_logprobs", group.ref_logprobs, tokens.lengths),
        "messages": _messages_of(group.messages),
        "generation_params": _kept("generation_params", _dict.decode, group.generation_params),
        "inference_logprobs": _logprobs("inference_logprobs", group.inference_logprobs, tokens.lengths),
        "overrides": _kept("overrides", _dicts.decode, group.overrides),
        "group_overrides": _kept("group_overrides", _dict.decode, group.group_overrides),
        "images": _kept("images", _any.decode, group.images),
        **_distillation(group, tokens.lengths),
    }
    env_id = _decoded("env_id", _env_id.decode, group.env_id)
    written["env_id"] = msgspec.json.encode(env_id)
    parts = [part for name, key in KEYS.items() for part in (key, written[name])]
    digits_at = 0 if group.inference_logprobs == NULL else sum(map(len, parts[:BEFORE_LOGPROBS]))
    return Checked(b"".join((*parts, b"}")), digits_at, len(tokens.lengths), sum(tokens.lengths), env_id)


def _whole_rows(name: str, raw: Raw) -> Rows:
    return _plain_rows(bytes(raw), whole=True) or _decoded_rows(name, _whole, raw)


def _real_rows(name: str, raw: Raw) -> Rows:
    return _plain_rows(bytes(raw), whole=False) or _decoded_rows(name, _real, raw)


def _decoded_rows(name: str, decoder: "msgspec.json.Decoder[Any]", raw: Raw) -> Rows:
    rows: list[list[float]] = _decoded(name, decoder.decode, raw)
    for row in rows:
        _finite(name, row)
    return Rows(msgspec.json.encode(rows), tuple(map(len, rows)))


def _plain_rows(text: bytes, *, whole: bool) -> Rows | None:
    """Rows of plain numbers of ordinary length, each row with one at least. None for anything else.

    `text` is JSON, so what has no quotes and no letters but e is numbers, in lists.
    """
    characters = np.frombuffer(text, np.uint8)
    if characters.max() > (ord("]") if whole else ord("e")) or b'"' in text or b"E" in text or (whole and b"." in text):
        return None
    if not whole and b"e" in text and _grows(characters):
        return None
    commas = characters == ord(",")
    if not _close_together(commas, *(SHORT if whole else LONGER)):
        return None
    lengths = _row_lengths(text, commas)
    return None if lengths is None else Rows(text, lengths)


def _row_lengths(text: bytes, commas: "np.ndarray") -> tuple[int, ...] | None:
    """How many numbers each list in the list has; None where one is empty, or it is not a list of lists of numbers."""
    lengths: list[int] = []
    start, end = text.find(b"[", 1), 0
    if text[:1] != b"[" or text[1:start].strip():
        return None
    while start > 0:
        end, following = text.find(b"]", start), text.find(b"[", start + 1)
        if 0 < following < end or not text[start + 1 : end].strip():
            return None
        lengths.append(int(np.count_nonzero(commas[start:end])) + 1)
        if text[end + 1 : following if following > 0 else -1].strip() != (b"," if following > 0 else b""):
            return None
        start = following
    return tuple(lengths)


def _close_together(commas: "np.ndarray", word: type[np.unsignedinteger], several: int) -> bool:
    """Whether so many words in a row always have a comma among them.

    A number is then shorter than `several + 1` words of that type have bytes.
    """
    words = commas[: len(commas) // word().itemsize * word().itemsize].view(word)
    last = len(words) - several + 1
    found = words[: max(0, last)]
    for offset in range(1, several):
        found = found | words[offset : offset + last]
    return bool(found.all())


def _grows(characters: "np.ndarray") -> bool:
    """Whether there is an exponent that does not make its number smaller: only such a one can reach infinity."""
    exponents = np.flatnonzero(characters == ord("e"))
    return bool((characters[exponents + 1] != ord("-")).any())


def _logprobs(name: str, raw: Raw, lengths: Sequence[int]) -> bytes:
    if raw == NULL:
        return NULL
    rows = _real_rows(name, raw)
    if rows.lengths:  # an environment that has none sends an empty list
        _same_shape(name, rows.lengths, lengths)
    return rows.json


def _loose_rows(name: str, raw: Raw) -> bytes:
    """Rows of any length: one advantage a token, or one a sequence."""
    return NULL if raw == NULL else _real_rows(name, raw).json


def _messages_of(raw: Raw) -> bytes:
    for conversation in _decoded("messages", _messages.decode, raw) or ():
        if any("role" not in message or "content" not in message for message in conversation):
            raise Invalid("messages: every message has a role and a content")
    return bytes(raw)


def _distillation(group: ScoredData, lengths: Sequence[int]) -> dict[str, bytes]:
    ids = _deep("distill_token_ids", _deep_whole, group.distill_token_ids)
    logprobs = _deep("distill_logprobs", _deep_real, group.distill_logprobs)
    for name, rows in (("distill_token_ids", ids), ("distill_logprobs", logprobs)):
        if rows:
            _same_shape(name, tuple(map(len, rows)), lengths)
    if ids and logprobs and any([*map(len, a)] != [*map(len, b)] for a, b in zip(ids, logprobs, strict=True)):
        raise Invalid("distill_logprobs: not one for each of distill_token_ids")
    for rows in logprobs or ():
        for row in rows:
            _finite("distill_logprobs", row)
    return {"distill_token_ids": msgspec.json.encode(ids), "distill_logprobs": msgspec.json.encode(logprobs)}


def _deep(name: str, decoder: "msgspec.json.Decoder[Any]", raw: Raw) -> list[list[list[Any]]] | None:
    return None if raw == NULL else _decoded(name, decoder.decode, raw)


def _kept(name: str, decode: Callable[[Raw], object], raw: Raw) -> bytes:
    """The bytes as they came, where they are of that kind."""
    _decoded(name, decode, raw)
    return bytes(raw)


def _same_shape(name: str, found: Sequence[int], wanted: Sequence[int]) -> None:
    if len(found) != len(wanted):
        raise Invalid(f"{name}: {len(found)} rows for {len(wanted)} sequences of tokens")
    for number, (here, there) in enumerate(zip(found, wanted, strict=True)):
        if here != there:
            raise Invalid(f"{name}: row {number} has {here} entries, the sequence has {there} tokens")


def _finite(name: str, row: list[float]) -> list[float]:
    if not np.isfinite(row).all():
        raise Invalid(f"{name}: a number that is not finite")
    return row


def _decoded(name: str, decode: Callable[[Any], Any], raw: bytes | Raw) -> Any:
    try:
        return decode(raw)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Invalid(f"{name}: {str(error)[:300]}") from error
