"""Supervised learning: what is learnt, in which order, and that it is learnt."""

from collections.abc import Sequence

import pytest

from core.errors import ConfigError, TrainingError
from core.types import Message, Role, ToolSpec
from tests.tool_call_parsers.tiny_model import DROPS_THINKING, write_model
from tool_call_parsers.rendering import Renderer
from trainer.sft import SftConfig, new_policy, row_loss, schedule, train_sft
from trainer.sft_rows import SftRow, batches, conversation_rows
from trainer.sft_save import SftSave
from trainer.tokenizer import build_tokenizer, save_tokenizer

TOOL = ToolSpec(name="add", description="Add.", parameters={"type": "object", "properties": {}})
TALK = (
    Message(role=Role.SYSTEM, content="You add."),
    Message(role=Role.USER, content="2 and 3"),
    Message(role=Role.ASSISTANT, content='<tool_call>\n{"name": "add", "arguments": {}}\n</tool_call>'),
    Message(role=Role.TOOL, content="5"),
    Message(role=Role.ASSISTANT, content="It is 5."),
)


def one_row(renderer: Renderer, talk: Sequence[Message] = TALK) -> SftRow:
    spoken = [message.content for message in talk if message.role is Role.ASSISTANT]
    (row,) = conversation_rows(renderer, talk, [TOOL], spoken)
    return row


@pytest.fixture(scope="module")
def renderer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("policy")
    save_tokenizer(build_tokenizer([message.content for message in TALK] * 20, ["and"]), directory)
    return Renderer.from_directory(directory)


def test_only_what_the_assistant_wrote_is_learnt(renderer):
    row = one_row(renderer)
    learnt = renderer.decode([index for index, wanted in zip(row.token_ids, row.loss_mask, strict=True) if wanted])
    assert learnt == f"{TALK[2].content}<|im_end|>It is 5.<|im_end|>"


def test_a_row_reads_as_the_chat_template_renders_the_conversation(renderer):
    row = one_row(renderer)
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
    short, long = one_row(renderer, TALK[:3]), one_row(renderer)
    counts = [sum(row.loss_mask) for row in (short, long)]
    with torch.no_grad():
        alone = [float(row_loss(model, [row])) for row in (short, long)]
        together = float(row_loss(model, [short, long]))
    mean = sum(loss * count for loss, count in zip(alone, counts, strict=True)) / sum(counts)
    assert together == pytest.approx(mean, abs=1e-5)


def test_a_policy_learns_its_demonstrations(renderer, tmp_path):
    model = new_policy(tmp_path, renderer)
    row = one_row(renderer)
    losses: list[float] = []
    config = SftConfig(steps=25, learning_rate=3e-3, warmup_steps=2, threads=1)
    train_sft(model, [[row]] * 50, config, lambda step, loss, seconds: losses.append(loss))
    assert len(losses) == 25
    assert losses[-1] < 0.2 < losses[0]


def test_where_the_template_forgets_a_thought_a_row_of_its_own_begins(tmp_path):
    renderer = Renderer.from_directory(write_model(tmp_path, DROPS_THINKING))
    thought = Message(role=Role.ASSISTANT, content="5", reasoning="2 + 3")
    talk = [TALK[1], thought, Message(role=Role.USER, content="and 1?"), Message(role=Role.ASSISTANT, content="6")]
    said = ["<think>\n2 + 3\n</think>\n\n5", "6"]
    rows = conversation_rows(renderer, talk, [], said)
    learnt = [[index for index, wanted in zip(*row, strict=True) if wanted] for row in rows]
    assert [renderer.decode(ids) for ids in learnt] == [f"{text}<|im_end|>" for text in said]
    assert "2 + 3" not in renderer.decode(rows[1].token_ids)


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_a_run_that_was_killed_goes_on_to_the_same_weights(renderer, tmp_path):
    import torch

    rows = [[one_row(renderer, TALK[: 3 + 2 * (number % 2)])] for number in range(12)]
    config = SftConfig(steps=12, warmup_steps=2, threads=1)
    whole = new_policy(tmp_path, renderer)
    train_sft(whole, rows, config)

    def killed(step: int, loss: float, seconds: float) -> None:
        if step == 8:
            raise KeyboardInterrupt

    save = SftSave(tmp_path / "run.pt", {"rows": "these"}, every=5)
    with pytest.raises(KeyboardInterrupt):
        train_sft(new_policy(tmp_path, renderer), rows, config, killed, save)
    steps: list[int] = []
    again = new_policy(tmp_path, renderer)
    train_sft(again, rows, config, lambda step, loss, seconds: steps.append(step), save)
    assert steps == [6, 7, 8, 9, 10, 11, 12]
    # sums of float32 depend in their last bits on where in memory a tensor lies
    assert max(float((value - weights(whole)[name]).abs().max()) for name, value in weights(again).items()) < 1e-5
    with pytest.raises(ConfigError, match="delete it to begin anew"):
        SftSave(tmp_path / "run.pt", {"rows": "others"}).restore(again, torch.optim.AdamW(again.parameters()))


def test_a_loss_that_is_no_number_ends_the_run(renderer, tmp_path):
    model = new_policy(tmp_path, renderer)
    model.lm_head.weight.data[0] = float("nan")
    with pytest.raises(TrainingError, match="step 1: the loss is nan"):
        train_sft(model, [[one_row(renderer)]], SftConfig(steps=1, threads=1))


def test_a_gradient_that_is_no_number_ends_the_run_before_it_is_saved(renderer, tmp_path):
    model, save = new_policy(tmp_path, renderer), SftSave(tmp_path / "run.pt", {}, every=1)
    model.lm_head.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = weights(model)
    with pytest.raises(TrainingError, match="step 1: the gradient's norm is"):
        train_sft(model, [[one_row(renderer)]], SftConfig(steps=1, threads=1), save=save)
    assert not save.path.exists()
    assert all((value == before[name]).all() for name, value in weights(model).items())


def test_a_full_disk_leaves_the_save_before(renderer, tmp_path):
    import resource

    import torch

    save, model = SftSave(tmp_path / "run.pt", {}), new_policy(tmp_path / "policy", renderer)
    optimiser = torch.optim.AdamW(model.parameters())
    save.write(1, model, optimiser)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(TrainingError, match=r"saving .*run\.pt"):
            save.write(2, model, optimiser)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert save.restore(model, optimiser) == 1
    assert not (tmp_path / "run.pt.partial").exists()
