"""The torch engine over several processes: FSDP2 under torchrun, gloo on the CPU and NCCL on GPUs.

Each process holds a part of every weight and of the optimiser, and computes a part of the micro-batches. Process 0 has
the training loop; the others do what it does, one call after the other (`follow`).
"""

import threading
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import ClassVar

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as load_parts
from torch.distributed.checkpoint.state_dict_saver import save as save_parts
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor

from core.errors import ConfigError, TrainingError, boundary
from trainer.algorithms.base import AdamParams, LossFunction
from trainer.batch import Batch
from trainer.engines.base import MODEL_FOLDER, EngineConfig, Pass
from trainer.engines.compiling import compile_parts
from trainer.engines.scoring import Scorer, blocks
from trainer.engines.torch_engine import Precision, TorchEngine, TorchEngineConfig
from trainer.weights import save_model

SHARDS = "shards"
END = "end"
JOINED = "natgym-joined"
LONGEST_WAIT = timedelta(days=7)
FOLLOWED = ("forward_backward", "optim_step", "logprobs")


class FsdpEngineConfig(TorchEngineConfig):
    """Settings of the fsdp engine."""

    name: str = "fsdp"
    halve_when_out_of_memory: bool = False  # one process alone cannot: the others wait for it
    processes: int | None = Field(default=None, ge=1, description="how many torchrun starts; another number is refused")
    offload: bool = Field(default=False, description="weights, gradients and optimiser stay in the host's memory")


class FsdpEngine(TorchEngine):
    """One model over all processes of torchrun. Calls are made on process 0 while the others `follow`."""

    config_type: ClassVar[type[EngineConfig]] = FsdpEngineConfig
    _read_as: ClassVar[torch.dtype | None] = None

    def __init__(self, source: Path, config: FsdpEngineConfig, *, with_reference: bool = False) -> None:
        """Join the processes of torchrun and divide the model. Raises TrainingError, ConfigError for what cannot be divided."""
        self._turn, self._closed = threading.Lock(), False
        if config.lora is not None or config.halve_when_out_of_memory:
            raise ConfigError("engine fsdp: lora and halve_when_out_of_memory are settings of the engine torch")
        if config.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("engine.device 'cuda' cannot be used: torch finds no GPU here")
        self._joined = not dist.is_initialized()
        if self._joined:
            _join(config.device)
        self.rank, self._world = dist.get_rank(), dist.get_world_size()
        if config.processes not in (None, self._world):
            raise ConfigError(f"engine.processes = {config.processes}, and torchrun started {self._world}")
        if config.device == "cuda":
            torch.cuda.set_device(self.rank % torch.cuda.device_count())
            config = config.model_copy(update={"device": f"cuda:{torch.cuda.current_device()}"})
        self._fsdp = config
        super().__init__(source, config, with_reference=with_reference)

    def follow(self) -> None:
        """Do what process 0 does until it ends; for all other processes."""
        while (call := self._told(None))[0] != END:
            try:
                # the public methods say what is done once more, so it is those under them that are followed
                kind = TorchEngine if call[0] in FOLLOWED else FsdpEngine
                getattr(kind, call[0])(self, *call[1])
            except TrainingError:
                continue  # process 0 met the same and decides
        self._leave()

    def close(self) -> None:
        """Let the others go, after what is being computed; on process 0. What is asked for later is refused."""
        with self._turn:
            if not self._closed:
                self._told((END, ()))
                self._closed = True
                self._leave()

    def forward_backward(self, batch: Batch, loss: LossFunction, tokens: int | None = None) -> Pass:
        """Add the gradient of that loss over the batch, each process its part."""
        with self._turn:
            return super().forward_backward(*self._told(("forward_backward", (batch, loss, tokens)))[1])

    def optim_step(self, params: AdamParams) -> float:
        """Clip by the norm over all parts, step, clear the gradient."""
        with self._turn:
            return super().optim_step(*self._told(("optim_step", (params,)))[1])

    def logprobs(self, batch: Batch) -> Tensor:
        """Nats of every completion token, (B, T) float32, 0.0 elsewhere."""
        with self._turn:
            return super().logprobs(*self._told(("logprobs", (batch,)))[1])

    def state_dict(self) -> dict[str, Tensor]:
        """The whole weights, gathered on process 0."""
        with self._turn:
            self._told(("_weights", ()))
            return self._weights()

    def each_weight(self) -> Generator[tuple[str, Tensor], None, None]:
        """The same one after the other, tied ones once: each is gathered when it is asked for, and no process holds all."""
        with self._turn:
            self._told(("_gather_each", ()))
            gathered = self._gathered()
            try:
                for name, value in gathered:  # noqa: UP028 (`yield from` would close it early)
                    yield name, value
            finally:
                for _ in gathered:  # the others gather to the end
                    pass

    def save(self, directory: Path) -> None:
        """Each process writes its part of weights and optimiser; process 0 the Hugging Face directory too."""
        with self._turn:
            self._told(("_save_parts", (directory,)))
            self._save_parts(directory)

    def load(self, directory: Path) -> None:
        """Continue from what `save` wrote, by as many processes or another number."""
        with self._turn:
            self._told(("_load_parts", (directory,)))
            self._load_parts(directory)

    def _leave(self) -> None:
        """End together with the others, and leave the group that this engine joined.

        Threads of gloo give the tensors of the last calls back to Python, and abort the process if that is ending by
        then. While this one waits for the others, they can.
        """
        dist.barrier()
        if self._joined:
            dist.destroy_process_group()

    def _told(self, call: tuple[str, tuple[object, ...]] | None) -> tuple[str, tuple]:  # pyright: ignore
        """Process 0 says a method and its arguments; the others hear it."""
        if self._closed:
            raise TrainingError("the engine was closed")
        told = [call]
        dist.broadcast_object_list(told, src=0)
        assert told[0] is not None, "process 0 says what is done"
        return told[0]

    def _place(self, scorer: Scorer) -> None:
        """Divide the model, block by block: what is whole is in the host's memory, and in the format of its files."""
        mesh, on_gpu = init_device_mesh(self._device.type, (self._world,)), self._device.type == "cuda"
        mixed = self._config.precision is Precision.BFLOAT16 and on_gpu
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if mixed else MixedPrecisionPolicy()
        offload = CPUOffloadPolicy(pin_memory=on_gpu) if self._fsdp.offload else OffloadPolicy()
        for module in (*blocks(scorer.model), scorer):
            for part in chain(module.parameters(), module.buffers()):
                if part.is_floating_point() and not isinstance(part, DTensor):
                    part.data = part.data.float()
            fully_shard(module, mesh=mesh, mp_policy=policy, offload_policy=offload)  # moves it to the device first
        scorer.rounds = mixed
        register_fsdp_forward_method(scorer, "has_plain_head")

    def _opened(self, *, learns: bool) -> Scorer:
        scorer = super()._opened(learns=learns)
        assert isinstance(scorer, FSDPModule), "it was divided"
        scorer.reshard()  # its trials left the outermost part whole, and an optimiser must not know whole weights
        return scorer

    def _compile(self) -> None:
        """Compile, or refuse to go on: a forward pass that broke off leaves weights whole."""
        if not compile_parts(self._scorer):
            raise ConfigError("engine.compile: not possible here, for the reason of the warning before; set it to false")

    def _shares(self, batch: Batch) -> Iterator[Batch]:
        """As many micro-batches on every process, because weights are gathered together; what is missing is an empty one."""
        parts = list(super()._shares(batch))
        for index in range(0, len(parts), self._world):
            mine = index + self.rank
            yield parts[mine] if mine < len(parts) else _silent(parts[index])

    def _one_pass(self, batch: Batch, loss: LossFunction, tokens: int) -> Pass:
        value, sums, maxima = 0.0, Counter[str](), dict[str, float]()
        for part in self._shares(batch):
            share = loss(self._predict(part), part, tokens)
            (share.value * self._world).backward()  # FSDP takes the mean over processes, a loss is a sum
            value += share.value.item()
            sums.update({name: number.item() for name, number in share.sums.items()})
            maxima |= {name: max(number.item(), maxima.get(name, -torch.inf)) for name, number in share.maxima.items()}
        value, *totals = self._reduced([value, *sums.values()], dist.ReduceOp.SUM)
        if not abs(value) < torch.inf:
            self._optimiser.zero_grad()
            raise TrainingError(f"the loss is {value}; the batch was not learned from")
        largest = dict(zip(maxima, self._reduced(list(maxima.values()), dist.ReduceOp.MAX), strict=True))
        means = {name: total / max(batch.tokens, 1) for name, total in zip(sums, totals, strict=True)}
        return Pass(value, means, largest, batch.tokens, int(batch.lengths.sum()))

    def _clipped_norm(self, limit: float) -> float:
        norm = torch.nn.utils.clip_grad_norm_(self._model.parameters(), limit)
        return (norm.full_tensor() if isinstance(norm, DTensor) else norm).item()

    def _shared_logprobs(self, values: Tensor) -> Tensor:
        on_device = values.to(self._device)
        dist.all_reduce(on_device)
        return on_device.cpu()

    def _weights(self) -> dict[str, Tensor]:
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return {
            name: value
            for name, value in get_model_state_dict(self._model, options=options).items()
            if isinstance(value, Tensor)
        }

    def _gather_each(self) -> None:
        for _ in self._gathered():
            pass

    def _gathered(self) -> Iterator[tuple[str, Tensor]]:
        parts = self._model.state_dict()  # divides again what a forward pass left whole
        tied = parts.keys() - {name for name, _ in chain(self._model.named_parameters(), self._model.named_buffers())}
        for name, value in parts.items():
            if name not in tied:
                yield name, value.full_tensor() if isinstance(value, DTensor) else value

    def _save_parts(self, directory: Path) -> None:
        with boundary(TrainingError, f"checkpoint {directory}"):
            model, optimiser = get_state_dict(self._model, self._optimiser)
            save_parts({"model": model, "optimiser": optimiser}, checkpoint_id=directory / SHARDS)
            weights = self._weights()
            if self.rank == 0:
                save_model(weights, self._source, directory / MODEL_FOLDER)
            dist.barrier()

    def _load_parts(self, directory: Path) -> None:
        with boundary(TrainingError, f"checkpoint {directory}"):
            model, optimiser = get_state_dict(self._model, self._optimiser)
            state = {"model": model, "optimiser": optimiser}
            load_parts(state, checkpoint_id=directory / SHARDS)
            set_state_dict(self._model, self._optimiser, model_state_dict=state["model"], optim_state_dict=state["optimiser"])

    def _reduced(self, values: list[float], how: dist.ReduceOp.RedOpType) -> list[float]:
        numbers = torch.tensor(values, dtype=torch.float64, device=self._device)
        dist.all_reduce(numbers, how)
        return numbers.tolist()


def _join(device: str) -> None:
    """The group of all processes of torchrun. Raises ConfigError without torchrun, TrainingError."""
    if not dist.is_torchelastic_launched():
        raise ConfigError("engine fsdp: start it by torchrun --nproc-per-node N -m services.cli serve trainer ...")
    with boundary(TrainingError, "torchrun"):
        store, rank, world = next(rendezvous("env://"))
        # torchrun's store outlives a group: who joins anew must not find addresses of before
        number = (store.add(JOINED, 1) - 1) // world
        # between two steps the others wait for process 0, which may wait for groups for long
        # what is offloaded is summed where it lies, by gloo
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
            store=dist.PrefixStore(f"{JOINED}-{number}", store),  # pyright: ignore
            rank=rank,
            world_size=world,
            timeout=LONGEST_WAIT,
        )


def _silent(batch: Batch) -> Batch:
    """One row of a micro-batch of which nothing is learned."""
    first = batch.rows(torch.zeros(1, dtype=torch.int64, device=batch.lengths.device))
    return replace(first, loss_mask=torch.zeros_like(first.loss_mask))
