"""Compressed bodies: zstd frames of each stored group, and what clients send, with a bound on what comes out."""

import asyncio
import zlib
from collections.abc import AsyncIterable, AsyncIterator
from threading import local

import zstandard
from blake3 import blake3

from services.rollout_api.base import NATIVE, Parcel, Sealed
from services.rollout_api.refusals import BodyTooLarge, Refusal, WrongMediaType

LEVEL = 1
TEXT = zstandard.ZstdCompressionParameters.from_level(LEVEL, window_log=19, hash_log=12, min_match=7)
# digits shrink because there are few of them: matches that a larger table finds among them save what they cost
DIGITS = zstandard.ZstdCompressionParameters.from_level(LEVEL, window_log=19, hash_log=6, min_match=7)
# packed ids and logprobs only shrink where something comes again, such as a prompt that all trajectories share: a level
# above would take a fifth off the others too, for eight times the time
PACKED = zstandard.ZstdCompressionParameters.from_level(-1)
MAX_WINDOW_BYTES = 8 << 20  # what a decoder has to hold back; RFC 8878 wants every decoder to manage that much
GZIP_STEP = 16 << 10
MAX_MEMBERS = 10_000  # a parallel compressor makes one for each 64 KiB or more
ZSTD_STEP = 1 << 10  # four bytes in can be 128 KiB out, so this is 32 MiB at most
ENCODINGS = ("identity", "gzip", "zstd")

_of_thread = local()


def seal(parcel: Parcel) -> Sealed:
    """The parcel as it is stored. Takes a moment for large bodies, during which other threads run."""
    if parcel.dialect == NATIVE:
        frame = frame_of(parcel.body)
    else:
        body, at = memoryview(parcel.body), parcel.digits_at or len(parcel.body)
        frame = frame_of(body[:at], TEXT) + (frame_of(body[at:], DIGITS) if parcel.digits_at else b"")
    return Sealed(parcel, frame, parcel.digest or digest_of(parcel.body))


def digest_of(body: bytes) -> bytes:
    """16 bytes that tell this body from every other one."""
    return blake3(body).digest(16)


def frame_of(body: bytes | memoryview, parameters: zstandard.ZstdCompressionParameters = PACKED) -> bytes:
    """One zstd frame. Frames behind each other are a valid stream of the bodies behind each other."""
    if not hasattr(_of_thread, "compressors"):
        _of_thread.compressors = {}
    known = _of_thread.compressors.get(parameters)
    if known is None:
        known = _of_thread.compressors[parameters] = zstandard.ZstdCompressor(compression_params=parameters)
    return known.compress(body)


def body_of(frame: bytes) -> bytes:
    """The body that was sealed."""
    if not hasattr(_of_thread, "decompressor"):
        _of_thread.decompressor = zstandard.ZstdDecompressor()
    return _of_thread.decompressor.decompressobj(read_across_frames=True).decompress(frame)


async def one_frame(parts: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """A stream as one zstd frame, as the content-encoding zstd of a response."""
    compressor = zstandard.ZstdCompressor(level=LEVEL).compressobj()
    async for part in parts:
        if compressed := await asyncio.to_thread(compressor.compress, part):
            yield compressed
    yield compressor.flush()


def inflated(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """A request's body as it was before that content-encoding.

    Raises WrongMediaType for an encoding that is not spoken, Refusal for a damaged body, and BodyTooLarge as soon as
    more than `max_bytes` come out.
    """
    if encoding == "identity":
        return body
    try:
        if encoding == "gzip":
            return _from_gzip(body, max_bytes)
        if encoding == "zstd":
            return _from_zstd(body, max_bytes)
    except (zlib.error, zstandard.ZstdError, MemoryError) as error:
        raise Refusal(f"the body is not whole {encoding}: {str(error)[:200]}") from error
    raise WrongMediaType(f"content-encoding {encoding[:40]!r}; known: {', '.join(ENCODINGS)}")


def _from_gzip(body: bytes, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    room, at, members = max_bytes, 0, 0
    while at < len(body):
        member, members = zlib.decompressobj(wbits=31), members + 1
        if members > MAX_MEMBERS:
            raise zlib.error(f"more than {MAX_MEMBERS} members")
        # not the whole rest at once: each member would copy all that comes after it
        while at < len(body) and not member.eof:
            piece = body[at : at + GZIP_STEP]
            part = member.decompress(piece, room + 1)
            at += len(piece) - len(member.unused_data)
            room -= len(part)
            if room < 0:
                raise _too_large(max_bytes)
            parts.append(part)
        if not member.eof:
            raise zlib.error("it ends too early")
    return b"".join(parts)


def _from_zstd(body: bytes, max_bytes: int) -> bytes:
    # the size in a frame's head is only the sender's word, and would be reserved
    if zstandard.frame_content_size(body) > max_bytes:
        raise _too_large(max_bytes)
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj()
    parts: list[bytes] = []
    size = 0
    for start in range(0, len(body), ZSTD_STEP):
        part = decompressor.decompress(body[start : start + ZSTD_STEP])
        size += len(part)
        if size > max_bytes:
            raise _too_large(max_bytes)
        parts.append(part)
        if decompressor.eof:
            if decompressor.unused_data or start + ZSTD_STEP < len(body):
                raise zstandard.ZstdError("something follows its only frame")
            return b"".join(parts)
    raise zstandard.ZstdError("it ends too early")


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body inflates to more than the {max_bytes} bytes that are allowed")
