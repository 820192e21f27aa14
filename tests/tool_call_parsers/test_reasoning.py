"""Reasoning is split off by what the prompt opened and what the completion closes, never by a guess."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import UnknownName
from tool_call_parsers.reasoning import ReasoningFormat, SplitReasoning
from tool_call_parsers.reasoning_formats import ALIASES, FORMATS, reasoning_format

VLLM = """\
beam cohere_command3 cohere_command4 deepseek_r1 deepseek_v3 deepseek_v4 deepseek_v41 ernie45 gemma4 glm45 glm47
granite granite_thinking_parser hf holo2 hunyuan_a13b hy_v3 hy_v4 inkling k2_horizon kimi_k2 kimi_k3 ling3 mimo minicpmv
minimax_m2 minimax_m2_append_think minimax_m3 mistral muse muse_glimmer musespark1x nemotron_v3 olmo3 openai_gptoss plamo3
poolside_v1 qwen3 seed_oss step3 step3p5 step5"""
SGLANG = """\
apertus2509 beam cohere_command4 deepseek-r1 deepseek-v3 deepseek-v4 deepseek-v41 dots gemma4 gigachat35 glm45
gpt-oss granite_thinking_parser hunyuan inkling interns1 iquest_q1 k2_horizon kimi kimi_k2 kimi_k3 ling3 mimo minimax
minimax-append-think minimax-m3 mistral muse nanbeige nemotron_3 poolside_v1 qwen3 qwen3-thinking response_template step3
step3p5"""

THINK = reasoning_format("deepseek_v3")
CALL = '<tool_call>\n{"name": "f"}'
ANALYSIS = "<|channel|>analysis<|message|>"

# name -> (format, text, whether the prompt opened the block, reasoning, answer)
SPLITS: dict[str, tuple[str, str, bool | None, str | None, str]] = {
    "a written block": ("qwen3", "<think>hm</think>Yes", False, "hm", "Yes"),
    "white space before the block": ("kimi_k2", "\n <think>hm</think>Yes", False, "hm", "Yes"),
    "an empty block": ("kimi_k2", "<think></think>Yes", False, "", "Yes"),
    "a block that the prompt opened": ("kimi_k2", "hm</think>Yes", True, "hm", "Yes"),
    "a block opened twice": ("kimi_k2", "<think>hm</think>Yes", True, "hm", "Yes"),
    "a closer alone": ("kimi_k2", "\n</think>Yes", False, "", "Yes"),
    "text before a closer that nothing opened": ("kimi_k2", "hm</think>Yes", False, None, "hm</think>Yes"),
    "the same where the prompt is unknown": ("deepseek_r1", "hm</think>Yes", None, "hm", "Yes"),
    "no block where the prompt is unknown": ("deepseek_v3", "Yes", None, None, "Yes"),
    "a block that was cut": ("kimi_k2", "<think>hm", False, "hm", ""),
    "a call in a block that was cut": ("kimi_k2", f"<think>hm\n{CALL}", False, "hm", CALL),
    "a call in a closed block": ("kimi_k2", f"<think>{CALL}</think>Yes", False, CALL, "Yes"),
    "a second closer": ("kimi_k2", "<think>hm</think>\n</think>Yes", False, "hm", "Yes"),
    "a quoted closer": ("kimi_k2", "<think>hm</think>Say </think>!", False, "hm", "Say </think>!"),
    "a block in the middle": ("kimi_k2", "Say <think>hm</think>!", False, None, "Say <think>hm</think>!"),
    "white space that qwen3 keeps": ("qwen3", "<think>\nhm\n</think>\n\nYes", False, "\nhm\n", "\n\nYes"),
    "white space that step3p5 drops": ("step3p5", "hm \n\t</think>Yes", True, "hm", "Yes"),
    "mistral": ("mistral", "[THINK]hm[/THINK]Yes", False, "hm", "Yes"),
    "seed": ("seed_oss", "<seed:think>hm</seed:think>Yes", False, "hm", "Yes"),
    "minimax m3": ("minimax-m3", "<mm:think>hm</mm:think>Yes", False, "hm", "Yes"),
    "the old kimi": ("kimi", "◁think▷hm◁/think▷Yes", False, "hm", "Yes"),
    "kimi k3": (
        "kimi_k3",
        "<|open|>think<|sep|>hm<|close|>think<|sep|><|open|>response<|sep|>Yes<|close|>response<|sep|>",
        False,
        "hm",
        "Yes",
    ),
    "cohere": (
        "cohere_command4",
        "<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>Yes<|END_RESPONSE|>",
        False,
        "hm",
        "Yes",
    ),
    "gemma 4": ("gemma4", "<|channel>thought\nhm<channel|>Yes", False, "hm", "Yes"),
    "harmony": (
        "gpt-oss",
        f"{ANALYSIS}one<|end|><|start|>assistant{ANALYSIS}two<|end|><|start|>assistant<|channel|>final<|message|>Yes<|return|>",
        False,
        "one\ntwo",
        "Yes",
    ),
    "apertus": ("apertus2509", "<|inner_prefix|>hm<|inner_suffix|>Yes", False, "hm", "Yes"),
    "granite's prose": ("granite", "Here is my thought process: hm Here is my response: Yes", False, "hm", " Yes"),
    "hunyuan": ("hunyuan_a13b", "<think>\nhm\n</think>\n<answer>\nYes\n</answer>", False, "hm", "Yes"),
    "ernie": ("ernie45", "hm\n</think>\n\n<response>\nYes\n</response>\n", True, "hm", "Yes\n"),
    "minimax that appends": ("minimax_m2_append_think", "hm</think>Yes", True, None, "<think>hm</think>Yes"),
}


@pytest.mark.parametrize("case", SPLITS)
def test_reasoning_is_split_off(case: str):
    name, text, inside, reasoning, answer = SPLITS[case]
    found = reasoning_format(name).split(text, starts_in_reasoning=inside, tool_markers=["<tool_call>"])
    assert (found.reasoning, found.answer) == (reasoning, answer)


@pytest.mark.parametrize("name", [*VLLM.split(), *SGLANG.split()])
def test_every_name_of_the_servers_is_known(name: str):
    assert isinstance(reasoning_format(name), ReasoningFormat)


def test_every_alias_names_a_format():
    assert set(ALIASES.values()) <= set(FORMATS)


def test_a_near_name_is_proposed():
    with pytest.raises(UnknownName, match="no reasoning format 'kimi_k4'; did you mean 'kimi_k"):
        reasoning_format("kimi_k4")


def test_told_not_to_think_everything_is_answer():
    text = "<think>hm</think>Yes"
    assert THINK.split(text, thinking=False) == SplitReasoning(None, text)


def test_nemotron_answers_with_its_reasoning_where_it_was_told_not_to_think():
    nemotron = reasoning_format("nemotron_v3")
    assert nemotron.split("<think>Yes</think>", thinking=False).answer == "Yes"
    assert nemotron.split("<think>Yes</think>", thinking=True) == SplitReasoning("Yes", "")


@pytest.mark.parametrize(
    ("prompt", "opened"), [("assistant\n<think>\n", True), ("<think>\n\n</think>\n\n", False), ("assistant\n", False)]
)
def test_the_prompt_says_whether_a_completion_begins_in_reasoning(prompt: str, opened: bool):
    assert THINK.opens(prompt) is opened


UNWRAPPED = sorted(name for name, one in FORMATS.items() if not one.answer and not one.kept_in_content)
PIECES = ["<think>", "</think>", "<tool_call>", " ", "\n", "a", "[THINK]", "[/THINK]", "<|inner_suffix|>"]


@given(st.sampled_from(UNWRAPPED), st.lists(st.sampled_from(PIECES)).map("".join), st.sampled_from([None, True, False]))
def test_the_answer_is_the_end_of_the_text_as_it_was_written(name: str, text: str, inside: bool | None):
    found = FORMATS[name].split(text, starts_in_reasoning=inside, tool_markers=["<tool_call>"])
    assert text.endswith(found.answer)
    assert (found.reasoning or "") in text
