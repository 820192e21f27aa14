"""The policy that comes with the project is an ordinary, small model directory."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from core.types import Message, Role, ToolSpec
from services.policy_folder import SHIPPED_POLICY
from tool_call_parsers.rendering import Renderer

MEGABYTE = 10**6
TOOL = ToolSpec(name="finish", description="Hand the agent in.", parameters={"type": "object", "properties": {}})
TALK = [Message(role=Role.SYSTEM, content="You build agents."), Message(role=Role.USER, content="convert miles to feet")]


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(SHIPPED_POLICY, dtype=torch.float32)


def test_it_takes_eight_megabytes_at_most():
    assert sum(path.stat().st_size for path in Path(SHIPPED_POLICY).iterdir()) <= 8 * MEGABYTE


def test_it_is_a_qwen3_of_a_few_million_parameters(model):
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert 2_000_000 <= sum(parameter.numel() for parameter in model.parameters()) <= 4_000_000


def test_transformers_renders_a_conversation_with_tools_as_we_do():
    theirs = AutoTokenizer.from_pretrained(SHIPPED_POLICY).apply_chat_template(
        [one.to_openai() for one in TALK], tools=[TOOL.to_openai()], add_generation_prompt=True
    )
    assert list(theirs["input_ids"]) == Renderer.from_directory(SHIPPED_POLICY).render(TALK, [TOOL])


def test_it_has_one_row_of_weights_for_every_token(model):
    assert model.config.vocab_size == Renderer.from_directory(SHIPPED_POLICY).vocab_size
