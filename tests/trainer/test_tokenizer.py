"""The small tokenizer keeps what is copied whole, and loses nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tool_call_parsers.rendering import Renderer
from trainer.tokenizer import build_tokenizer, save_tokenizer

BOILERPLATE = "from nat.plugin_api import Builder\n\n\nclass ToolConfig:\n"
CORPUS = [f"convert miles to feet: {number}\n{BOILERPLATE}    miles = {number}\n" for number in range(30)]
TOKENIZER = build_tokenizer(CORPUS, ["miles", "feet"])


def pieces(text: str) -> list[str]:
    return [TOKENIZER.decode([index]) for index in TOKENIZER.encode(text).ids]


def test_words_that_are_copied_are_one_token_wherever_they_stand():
    assert [piece for piece in pieces("miles_to_feet(miles)") if piece in ("miles", "feet")] == ["miles", "feet", "miles"]


def test_short_numbers_are_one_token_and_long_ones_are_cut_from_the_left():
    assert [piece for piece in pieces("value 120.5 and 1609") if piece.isdigit()] == ["12", "0", "5", "16", "09"]


def test_what_recurs_is_one_token_whatever_its_length():
    assert any(BOILERPLATE in piece for piece in pieces(CORPUS[3]))


def test_a_word_inside_another_is_not_cut_out():
    assert "miles" not in pieces("smiles")


def test_markers_are_one_token():
    assert len(TOKENIZER.encode("<tool_call>").ids) == 1
    assert len(TOKENIZER.encode("<|im_end|>").ids) == 1


@given(st.text(max_size=200))
def test_any_text_comes_back_as_it_was(text: str):
    assert TOKENIZER.decode(TOKENIZER.encode(text).ids, skip_special_tokens=False) == text


def test_a_saved_tokenizer_renders_as_a_model_directory(tmp_path):
    save_tokenizer(TOKENIZER, tmp_path)
    renderer = Renderer.from_directory(tmp_path)
    ids = renderer.render([{"role": "user", "content": "miles"}])
    assert renderer.decode(ids) == "<|im_start|>user\nmiles<|im_end|>\n<|im_start|>assistant\n"


def test_the_same_corpus_gives_the_same_tokenizer():
    assert build_tokenizer(CORPUS, ["feet", "miles"]).to_str() == TOKENIZER.to_str()


@pytest.mark.parametrize("text", ["", "\x00", "日本語", "🙂" * 20])
def test_bytes_outside_the_corpus_are_spelled(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text).ids) == text
