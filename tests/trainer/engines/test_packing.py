"""Rows behind each other, and trees of rows, are the rows: same logprobs, same loss, same gradient."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MptConfig,
    MptForCausalLM,
    PreTrainedModel,
)

from core.types import Sample
from tests.trainer.toy import VOCABULARY
from trainer.algorithms.grpo import GRPO
from trainer.batch import Batch, collate
from trainer.engines.lora import LoraSettings
from trainer.engines.packing import Layout, Pack, cut, plant
from trainer.engines.torch_engine import Precision, TorchEngine, TorchEngineConfig

FLOAT32 = 1e-5  # sums in another order
LEAST = 3  # tokens in common that the small rows of these tests share from

SHAPE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 32,
    "vocab_size": VOCABULARY,
    "initializer_range": 0.3,
    "max_position_embeddings": 64,
}


@st.composite
def families_of_rows(draw: st.DrawFn) -> list[Sample]:
    """Groups that begin with a prompt of theirs; some members go on as another one did, some are part of another."""
    tokens = st.integers(0, 3)  # few, so that more than the prompt is in common by chance
    rows: list[tuple[list[int], list[bool]]] = []
    for _ in range(draw(st.integers(1, 3))):
        ids = draw(st.lists(tokens, min_size=1, max_size=20))
        for _ in range(draw(st.integers(1, 4))):
            kept = draw(st.integers(1, len(ids)))
            ids = ids[:kept] + draw(st.lists(tokens, min_size=1, max_size=12))
            start = draw(st.integers(1, len(ids) - 1))
            rows.append((ids, [place >= start and draw(st.integers(0, 4)) > 0 for place in range(len(ids))]))
    return [_sample(number, ids, mask) for number, (ids, mask) in enumerate(rows)]


def _sample(number: int, ids: Sequence[int], mask: Sequence[bool]) -> Sample:
    return Sample(
        group_id="g",
        trajectory_id=str(number),
        token_ids=tuple(ids),
        loss_mask=tuple(mask),
        logprobs=tuple(-1.5 if on else 0.0 for on in mask),
        advantages=tuple((-1.0) ** number * (1 + number / 4) if on else 0.0 for on in mask),
    )


def group_of(prompt: int, members: int, length: int, seed: int = 0) -> list[Sample]:
    """Members of one group, random tokens behind one prompt."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(VOCABULARY, (members, prompt + length), generator=generator)
    ids[:, :prompt] = ids[0, :prompt]
    return [_sample(number, row, [at >= prompt for at in range(len(row))]) for number, row in enumerate(ids.tolist())]


def asked(batch: Batch) -> list[tuple[int, int]]:
    """Row and place of every token before one that is asked for."""
    return [(row, place - 1) for row, place in batch.loss_mask.nonzero().tolist() if place]


def history(pack: Pack, place: int) -> list[tuple[int, int]]:
    """Positions and ids that a place of the pack sees."""
    seen = pack.mask()[place].nonzero().flatten()
    return sorted(zip(pack.position_ids[0, seen].tolist(), pack.token_ids[0, seen].tolist(), strict=True))


@given(families_of_rows())
@settings(max_examples=40, deadline=None)
def test_a_token_sees_its_row_up_to_itself_and_nothing_else(samples: list[Sample]):
    batch = collate(samples)
    pack = plant(batch.token_ids, batch.loss_mask, LEAST)
    for row, place in asked(batch):
        expected = list(enumerate(batch.token_ids[row, : place + 1].tolist()))
        assert history(pack, int(pack.places[row, place])) == expected


@given(families_of_rows(), st.integers(1, 120))
@settings(max_examples=40, deadline=None)
def test_packs_hold_every_row_once_and_keep_their_budget(samples: list[Sample], budget: int):
    batch = collate(samples)
    parts = cut(batch.token_ids, batch.loss_mask, budget, LEAST)
    assert sorted(row for part in parts for row in part) == list(range(len(batch)))
    for part in parts:
        pack = plant(batch.token_ids[part], batch.loss_mask[part], LEAST)
        assert len(part) == 1 or pack.token_ids.shape[1] <= budget


def test_a_shared_prompt_is_there_once():
    batch = collate(group_of(prompt=20, members=6, length=5))
    assert plant(batch.token_ids, batch.loss_mask).token_ids.numel() == 20 + 6 * 4  # the last token is asked for, not given
    assert plant(batch.token_ids, batch.loss_mask, 1000).token_ids.numel() == 6 * 24


def test_a_group_is_not_torn_where_it_fits():
    batch = collate([*group_of(20, 3, 5), *group_of(20, 4, 5, seed=1)])
    parts = cut(batch.token_ids, batch.loss_mask, budget=20 + 4 * 4, least_shared=1)
    assert sorted(map(sorted, parts)) == [[0, 1, 2], [3, 4, 5, 6]]


def engine(model: Path, layout: Layout, **others: object) -> TorchEngine:
    return TorchEngine(model, TorchEngineConfig(layout=layout, **others))


def gradients(one: TorchEngine, batch: Batch) -> tuple[float, dict[str, Tensor]]:
    """The loss of a batch, and its gradient."""
    loss = one.forward_backward(batch, GRPO().loss).loss
    found = {name: value.grad.clone() for name, value in one._model.named_parameters() if value.grad is not None}
    one._optimiser.zero_grad()
    return loss, found


def assert_same_step(ours: TorchEngine, theirs: TorchEngine, batch: Batch) -> None:
    torch.testing.assert_close(ours.logprobs(batch), theirs.logprobs(batch), atol=FLOAT32, rtol=FLOAT32)
    (loss, found), (other_loss, others) = gradients(ours, batch), gradients(theirs, batch)
    assert loss == pytest.approx(other_loss, abs=FLOAT32)
    assert found.keys() == others.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, others[name], atol=FLOAT32, rtol=FLOAT32, msg=name)


@pytest.fixture(scope="module")
def engines(toy_model: Path) -> dict[Layout, TorchEngine]:
    """One of each layout, with several packs for a batch."""
    return {layout: engine(toy_model, layout, micro_batch_tokens=90) for layout in Layout}


@given(families_of_rows(), st.sampled_from([Layout.SHARED, Layout.PACKED]))
@settings(max_examples=25, deadline=None)
def test_a_layout_changes_no_logprob_and_no_gradient(engines: dict[Layout, TorchEngine], samples: list[Sample], layout: Layout):
    assert_same_step(engines[layout], engines[Layout.PADDED], collate(samples))


@pytest.mark.parametrize("layout", [Layout.SHARED, Layout.PACKED])
@pytest.mark.parametrize(
    "others",
    [{"attention": "eager"}, {"gradient_checkpointing": True}, {"lora": LoraSettings(rank=2)}, {"temperature": 0.7}],
    ids=lambda others: next(iter(others)),
)
def test_a_layout_goes_with_every_other_setting(toy_model: Path, layout: Layout, others: dict[str, object]):
    batch = collate([*group_of(18, 4, 7), *group_of(20, 3, 5, seed=1), *group_of(9, 2, 3, seed=2)])
    ours = engine(toy_model, layout, **others)
    assert ours._scorer.layout is layout
    assert_same_step(ours, engine(toy_model, Layout.PADDED, **others), batch)


def test_rounding_is_no_reason_to_pad(toy_model: Path):
    assert engine(toy_model, Layout.SHARED, precision=Precision.BFLOAT16)._scorer.layout is Layout.SHARED


FAMILIES: list[PreTrainedModel] = [
    LlamaForCausalLM(LlamaConfig(**SHAPE)),
    GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=VOCABULARY, n_positions=64)),
]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("model", FAMILIES, ids=lambda model: type(model).__name__)
def test_other_families_share_prompts_too(model: PreTrainedModel, attention: str, tmp_path: Path):
    model.save_pretrained(tmp_path)
    ours = engine(tmp_path, Layout.SHARED, attention=attention)
    assert ours._scorer.layout is Layout.SHARED
    batch = collate([*group_of(18, 4, 7), *group_of(20, 3, 5, seed=1)])
    assert_same_step(ours, engine(tmp_path, Layout.PADDED, attention=attention), batch)


UNFIT: list[tuple[PreTrainedModel, str]] = [
    (MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=8)), "sliding_attention"),
    (MambaForCausalLM(MambaConfig(hidden_size=16, num_hidden_layers=1, vocab_size=VOCABULARY)), "linear_attention"),
    # knows where a token is by its place, not by the position that it is given
    (MptForCausalLM(MptConfig(d_model=16, n_heads=2, n_layers=1, vocab_size=VOCABULARY, max_seq_len=64)), "packed rows|Error"),
]


@pytest.mark.parametrize(("model", "reason"), UNFIT, ids=lambda one: type(one).__name__)
def test_a_model_that_cannot_be_packed_is_padded(
    model: PreTrainedModel, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    model.save_pretrained(tmp_path)
    ours = engine(tmp_path, Layout.SHARED, attention="eager")
    assert ours._scorer.layout is Layout.PADDED
    (said,) = [record.fields["reason"] for record in caplog.records if record.message == "rows_are_padded"]
    assert re.search(reason, said)
    assert_same_step(ours, engine(tmp_path, Layout.PADDED, attention="eager"), collate(group_of(18, 3, 7)))
