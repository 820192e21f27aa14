"""Compiled parts take the same step, whatever lengths the rows have; what cannot be compiled is left as it is, and said."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.trainer.toy import random_sample, random_samples
from trainer.algorithms.grpo import GRPO
from trainer.batch import Batch, collate
from trainer.engines.compiling import compile_parts
from trainer.engines.lora import LoraSettings, add_adapters
from trainer.engines.packing import Layout
from trainer.engines.scoring import Scorer
from trainer.engines.torch_engine import TorchEngine, TorchEngineConfig

FLOAT32 = 1e-5
pytestmark = [  # torch's compiler warns of what it does itself
    pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]


class Counting:
    """A compiler that changes nothing: it counts what it is given."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]):
        self.graphs += 1
        return graph.forward


def scorer_of(directory: Path, *, adapters: bool = False, checkpointing: bool = False) -> Scorer:
    torch._dynamo.reset()  # what other tests compiled counts towards the limit of the same functions
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    assert isinstance(model, PreTrainedModel)
    scorer = Scorer(model.eval(), 1.0)
    scorer.settle(Layout.SHARED, bfloat16=False)
    if adapters:
        add_adapters(model, LoraSettings(rank=4, alpha=8))
    if checkpointing:
        model.activation_checkpointing_enable()
        model.train()
    return scorer


def rows(lengths: list[int]) -> Batch:
    return collate([random_sample(number, length, 1.0) for number, length in enumerate(lengths)])


def slopes(scorer: Scorer, batch: Batch) -> list[Tensor]:
    logprobs, _ = scorer(batch.token_ids, batch.loss_mask)
    learned = [parameter for parameter in scorer.parameters() if parameter.requires_grad]
    return [logprobs, *torch.autograd.grad((logprobs * batch.logprobs).sum(), learned)]


@pytest.mark.parametrize(
    "settings", [{}, {"checkpointing": True}, {"adapters": True, "checkpointing": True}], ids=["plain", "twice", "adapters"]
)
def test_packs_of_other_lengths_are_not_compiled_anew(toy_model: Path, settings: dict[str, bool]):
    plain, compiled, compiler = scorer_of(toy_model, **settings), scorer_of(toy_model, **settings), Counting()
    assert compile_parts(compiled, compiler)
    counted = compiler.graphs
    assert counted
    for lengths in ([7, 19, 12], [5], [30, 9, 22, 17, 8], [40, 40]):
        batch = rows(lengths)
        for ours, theirs in zip(slopes(compiled, batch), slopes(plain, batch), strict=True):
            torch.testing.assert_close(ours, theirs, atol=FLOAT32, rtol=FLOAT32)
    assert compiler.graphs == counted


def refused(graph: torch.fx.GraphModule, inputs: list[Tensor]):
    raise RuntimeError("no compiler on this machine")


def doubled(graph: torch.fx.GraphModule, inputs: list[Tensor]):
    def forward(*given: object) -> tuple[object, ...]:
        return tuple(2 * made if isinstance(made, Tensor) else made for made in graph.forward(*given))

    return forward


@pytest.mark.parametrize(("backend", "reason"), [(refused, "no compiler on this machine"), (doubled, "compiled parts differ")])
def test_what_cannot_be_compiled_is_left_as_it_is_and_said(
    toy_model: Path, caplog: pytest.LogCaptureFixture, backend: Callable[..., object], reason: str
):
    plain, scorer, batch = scorer_of(toy_model), scorer_of(toy_model), collate(random_samples())
    assert not compile_parts(scorer, backend)
    (said,) = [record.fields["reason"] for record in caplog.records if record.message == "not_compiled"]
    assert reason in said
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(slopes(scorer, batch), slopes(plain, batch), strict=True))


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
def test_a_model_that_names_no_blocks_has_its_scores_compiled(toy_model: Path):
    plain, scorer = scorer_of(toy_model), scorer_of(toy_model)
    scorer.model._no_split_modules = None
    quick = {"cpp_cache_precompile_headers": False, "cpp.simdlen": 1, "compile_threads": 1}  # to compile, not to run
    with torch._inductor.config.patch(quick):
        assert compile_parts(scorer)
    for lengths in ([7, 19, 12], [30, 9]):
        batch = rows(lengths)
        for ours, theirs in zip(slopes(scorer, batch), slopes(plain, batch), strict=True):
            torch.testing.assert_close(ours, theirs, atol=FLOAT32, rtol=FLOAT32)


def test_an_engine_without_a_compiler_says_so_and_takes_the_step(
    toy_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    torch._dynamo.reset()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    with torch._inductor.config.patch({"cpp.cxx": (str(tmp_path / "no-compiler"),), "compile_threads": 1}):
        engine = TorchEngine(toy_model, TorchEngineConfig(compile=True))
    (said,) = [record.fields["reason"] for record in caplog.records if record.message == "not_compiled"]
    assert "compiler" in said
    batch, plain = collate(random_samples()), TorchEngine(toy_model, TorchEngineConfig())
    losses = [one.forward_backward(batch, GRPO().loss).loss for one in (engine, plain)]
    assert losses[0] == losses[1]
