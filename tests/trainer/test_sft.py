"""Supervised learning: what is learnt, in which order, and that it is learnt."""

import pytest

from core.types import Message, Role, ToolSpec
from tool_call_parsers.rendering import Renderer
from trainer.sft import SftConfig, SftRow, batches, conversation_row, new_policy, row_loss, schedule, train_sft
from trainer.tokenizer import build_tokenizer, save_tokenizer

TOOL = ToolSpec(name="add", description="Add.", parameters={"type": "object", "properties": {}})
TALK = (
    Message(role=Role.SYSTEM, content="You add."),
    Message(role=Role.USER, content="2 and 3"),
    Message(role=Role.ASSISTANT, content='<tool_call>\n{"name": "add", "arguments": {}}\n</tool_call>'),
    Message(role=Role.TOOL, content="5"),
    Message(role=Role.ASSISTANT, content="It is 5."),
)


@pytest.fixture(scope="module")
def renderer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("policy")
    save_tokenizer(build_tokenizer([message.content for message in TALK] * 20, ["and"]), directory)
    return Renderer.from_directory(directory)


def test_only_what_the_assistant_wrote_is_learnt(renderer):
    row = conversation_row(renderer, TALK, [TOOL])
    learnt = renderer.decode([index for index, wanted in zip(row.token_ids, row.loss_mask, strict=True) if wanted])
    assert learnt == f"{TALK[2].content}<|im_end|>It is 5.<|im_end|>"


def test_a_row_reads_as_the_chat_template_renders_the_conversation(renderer):
    row = conversation_row(renderer, TALK, [TOOL])
    whole = renderer.decode(renderer.render(TALK, [TOOL], add_generation_prompt=False))
    assert renderer.decode(row.token_ids) == whole.rstrip("\n")


def test_every_row_is_in_one_batch_and_batches_keep_to_their_size():
    rows = [SftRow((1,) * length, (True,) * length) for length in (5, 90, 40, 41, 7, 60, 33, 100)]
    packed = list(batches(rows, tokens=120))
    assert sorted(len(row.token_ids) for pack in packed for row in pack) == sorted(len(row.token_ids) for row in rows)
    assert all(len(pack) * max(len(row.token_ids) for row in pack) <= 120 for pack in packed)


def test_the_schedule_warms_up_and_ends_low():
    config = SftConfig(steps=100, warmup_steps=10, final_share=0.1)
    shares = [schedule(step, config) for step in range(100)]
    assert shares[0] == pytest.approx(0.1)
    assert max(shares) == shares[10] == 1.0
    assert shares[-1] == pytest.approx(0.1, abs=0.01)


def test_padding_changes_no_loss(renderer, tmp_path):
    import torch

    model = new_policy(tmp_path, renderer).eval()
    short, long = conversation_row(renderer, TALK[:3], [TOOL]), conversation_row(renderer, TALK, [TOOL])
    counts = [sum(row.loss_mask) for row in (short, long)]
    with torch.no_grad():
        alone = [float(row_loss(model, [row])) for row in (short, long)]
        together = float(row_loss(model, [short, long]))
    mean = sum(loss * count for loss, count in zip(alone, counts, strict=True)) / sum(counts)
    assert together == pytest.approx(mean, abs=1e-5)


def test_a_policy_learns_its_demonstrations(renderer, tmp_path):
    model = new_policy(tmp_path, renderer)
    row = conversation_row(renderer, TALK, [TOOL])
    losses: list[float] = []
    config = SftConfig(steps=25, learning_rate=3e-3, warmup_steps=2, tokens_per_step=len(row.token_ids))
    train_sft(model, [row] * 50, config, lambda step, loss, seconds: losses.append(loss))
    assert len(losses) == 25
    assert losses[-1] < 0.2 < losses[0]
