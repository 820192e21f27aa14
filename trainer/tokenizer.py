"""Makes a small tokenizer for a narrow domain, in Hugging Face's tokenizer.json.

Byte-level BPE as in Qwen, with two changes for a small policy. Words that it has to copy from the prompt stay whole,
and digits go in pairs, so that copying is one token for one token. (Not in threes: each of a thousand numbers is met
so seldom that its embedding stays half as long as others; a quarter of them were copied wrongly, of the pairs none.)
Text between them that recurs in the corpus (the boilerplate of a file, the opening of a tool call) is one token each,
whatever its length: `ignore_merges` looks a piece up whole before it merges bytes. What is neither is spelled with the
usual merges; nothing is out of vocabulary.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TURN, PAD = "<|im_end|>", "<|endoftext|>"
CONTROL_TOKENS = (PAD, "<|im_start|>", END_OF_TURN)
MARKERS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
TEMPLATE = Path(__file__).parent / "templates" / "chatml_tools.jinja"
BYTE_VOCABULARY = 640
MIN_COUNT = 12
NUMBERS = [f"{number:0{width}}" for width in (1, 2) for number in range(10**width)]


def build_tokenizer(corpus: Sequence[str], words: Iterable[str]) -> Tokenizer:
    """A tokenizer whose whole pieces are `words`, short numbers, and every stretch that recurs in `corpus`."""
    pieces = re.compile(_piece_pattern(words))
    counts = Counter(piece for text in corpus for piece in _pieces(pieces, text))
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pieces.pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    vocabulary, merges = _byte_bpe(counts)
    for piece in sorted([*words, *NUMBERS, *(piece for piece, count in counts.items() if count >= MIN_COUNT)]):
        vocabulary.setdefault(_byte_text(piece), len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in MARKERS])
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TURN,
        "pad_token": PAD,
        "model_max_length": 4096,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (directory / "chat_template.jinja").write_text(TEMPLATE.read_text(encoding="utf-8"), encoding="utf-8")


def _piece_pattern(words: Iterable[str]) -> str:
    """Whole words (longest first) and runs of up to two digits; what lies between them is a piece too."""
    ordered = sorted(set(words), key=lambda word: (-len(word), word))
    return rf"(?<![A-Za-z])(?:{'|'.join(map(re.escape, ordered))})(?![A-Za-z])|[0-9]{{1,2}}"


def _pieces(pattern: re.Pattern[str], text: str) -> Iterable[str]:
    for stretch in re.split("|".join(map(re.escape, (*CONTROL_TOKENS, *MARKERS))), text):
        end = 0
        for match in pattern.finditer(stretch):
            if match.start() > end:
                yield stretch[end : match.start()]
            end = match.end()
        if end < len(stretch):
            yield stretch[end:]


def _byte_bpe(counts: Counter[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges for what is not a whole piece, learnt from the words of the corpus."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=BYTE_VOCABULARY, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(sorted(counts), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return dict(model["vocab"]), [(left, right) for left, right in model["merges"]]


def _byte_text(piece: str) -> str:
    """A piece in the byte-level alphabet."""
    return "".join(
        part for part, _ in pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(piece)
    )
