"""Logprobs and entropy of completion tokens, with memory that does not grow with the vocabulary."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from core.logs import get_logger
from trainer.engines.packing import LEAST_SHARED, Layout, Pack, plant
from trainer.engines.tree_attention import TREE_ATTENTION, Sight

log = get_logger("torch_engine")
HEAD_TOLERANCE = 1e-4  # float32 rounding between two ways to the same logits
ROUNDED_HEAD_TOLERANCE = 1e-2  # the same in 16 bits
ROUNDED_TOLERANCE = 5e-2  # nats on average between two ways to the same logprobs in 16 bits
LOGITS_PER_CHUNK = 1 << 24  # 64 MiB of float32; more are recomputed in the backward pass


class Scorer(torch.nn.Module):
    """A causal model that looks at the vocabulary only where the loss mask is, and there in parts.

    To be settled where the model will be computed, before it is used.
    """

    def __init__(self, model: PreTrainedModel, temperature: float) -> None:
        super().__init__()
        self.model, self._temperature = model, temperature
        self.layout, self.plain_head, self.rounds = Layout.PADDED, False, False
        self.vocabulary: int = model.get_input_embeddings().weight.shape[0]  # pyright: ignore
        self._attention: str = model.config._attn_implementation or "eager"

    def settle(self, layout: Layout, *, bfloat16: bool) -> None:
        """Find by trials what this model can: `layout` is the one asked for, or `padded` where packed rows give other numbers.

        They are made before rounding begins, which differs more than what they look for; unless `rounds` is set, because
        the model rounds by itself.
        """
        self.plain_head = self.has_plain_head(torch.arange(min(8, self.vocabulary), device=self.model.device)[None])
        if layout is not Layout.PADDED and (reason := self._obstacle(layout)) is not None:
            log.warning("rows_are_padded", layout=layout.value, reason=reason)
        self.rounds = bfloat16

    @property
    def least_shared(self) -> int:
        """Tokens that rows have to begin with in common to have them computed once."""
        # a flash kernel knows rows behind each other, but no tree of them
        return LEAST_SHARED if self.layout is Layout.SHARED and "flash" not in self._attention else sys.maxsize

    def forward(self, token_ids: Tensor, loss_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Nats of each completion token and entropy before it, (B, T) each, 0.0 elsewhere."""
        mask = loss_mask[:, 1:]  # the first token of a row has nothing before it
        targets = token_ids[:, 1:][mask]
        with self._autocast(token_ids.device):
            if self.layout is Layout.PADDED:
                chosen = self._hidden(token_ids)[:, :-1][mask]
            else:
                pack = plant(token_ids, loss_mask, self.least_shared)
                hidden = self._hidden(pack.token_ids, position_ids=pack.position_ids, **self._sight(pack))
                chosen = hidden[0].index_select(0, pack.places[:, :-1][mask])
        logprobs, entropy = self._chunked_scores(chosen, targets)
        return _spread(logprobs, mask), _spread(entropy, mask)

    def _hidden(self, token_ids: Tensor, **inputs: object) -> Tensor:
        """What the output matrix is multiplied with; where that is not all of the head, the logits."""
        if self.plain_head:
            return self.model.base_model(input_ids=token_ids, use_cache=False, **inputs).last_hidden_state
        return self.model(input_ids=token_ids, use_cache=False, **inputs).logits

    def _sight(self, pack: Pack) -> dict[str, object]:
        """How the model is told which token sees which."""
        if self._attention == "sdpa":
            return {"sight": Sight(pack.segments)}
        if "flash" in self._attention:
            return {}  # transformers finds the rows by the positions, which begin anew
        hidden = torch.zeros(1, 1, *(2 * pack.token_ids.shape[-1:]), device=pack.token_ids.device)
        return {"attention_mask": hidden.masked_fill(~pack.mask(), torch.finfo(hidden.dtype).min)}

    @torch.no_grad()
    def _obstacle(self, layout: Layout) -> str | None:
        """Put the layout in force, or say why the model cannot have it."""
        kinds = _kinds_of_attention(self.model)
        if kinds != {"full_attention"}:
            return f"the model has {', '.join(sorted(kinds))}"
        ids, asked = self.trial()
        padded = self(ids, asked)[0]
        self.layout = layout
        try:
            if self._attention == "sdpa":
                self.model.set_attn_implementation(TREE_ATTENTION)
            packed = self(ids, asked)[0]
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
        else:
            if (distance := self.difference(packed, padded)) is None:
                return None
            reason = f"packed rows differ by {distance:.1g} nats"
        self.layout = Layout.PADDED
        if self._attention == "sdpa":
            self.model.set_attn_implementation(self._attention)
        return reason

    def difference(self, ours: Tensor, theirs: Tensor) -> float | None:
        """How much two ways to the same nats differ, where that is more than rounding."""
        distance = (ours - theirs).abs()
        far, least = (distance.mean(), ROUNDED_TOLERANCE) if self.rounds else (distance.max(), HEAD_TOLERANCE)
        return None if far < least else far.item()

    def trial(self) -> tuple[Tensor, Tensor]:
        """Token ids and loss mask of rows of several lengths, (5, T): some share a beginning."""
        rows = [torch.arange(length).remainder(self.vocabulary) for length in (2 * LEAST_SHARED, 3 * LEAST_SHARED // 2, 5)]
        ids = pad_sequence([rows[0], rows[1].flip(0), rows[2], rows[0].clone(), rows[0][:-1]], batch_first=True)
        ids[3, LEAST_SHARED + 1 :] = ids[3, LEAST_SHARED + 1 :].flip(0)
        asked = torch.ones_like(ids, dtype=torch.bool)
        asked[1, len(rows[1]) :] = asked[2, len(rows[2]) :] = asked[4, -1] = False
        return ids.to(self.model.device), asked.to(self.model.device)

    def _chunked_scores(self, chosen: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        rows = max(1, LOGITS_PER_CHUNK // self.vocabulary)
        if len(targets) <= rows:
            return self.scores(chosen, targets)
        parts = [
            checkpoint(self.scores, *pair, use_reentrant=False)
            for pair in zip(chosen.split(rows), targets.split(rows), strict=True)
        ]
        logprobs, entropies = zip(*parts, strict=True)
        return torch.cat(logprobs), torch.cat(entropies)

    def scores(self, chosen: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Nats of each target (N) and entropy, (N) each; of what the output matrix is multiplied with, or of logits."""
        with self._autocast(chosen.device):
            logits = _head(self.model)(chosen) if self.plain_head else chosen
        scaled = logits.float() if self._temperature == 1.0 else logits.float() / self._temperature
        log_p = torch.log_softmax(scaled, dim=-1)
        with torch.no_grad():
            entropy = -(log_p.exp() * log_p).sum(dim=-1)
        return log_p.gather(-1, targets[:, None]).squeeze(-1), entropy

    @torch.no_grad()
    def has_plain_head(self, ids: Tensor) -> bool:
        """Whether logits are the output matrix times the last hidden state; some models scale or cap them."""
        with self._autocast(ids.device):
            logits = self.model(input_ids=ids, use_cache=False).logits
            hidden = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            ours = _head(self.model)(hidden)
        tolerance = ROUNDED_HEAD_TOLERANCE if self.rounds else HEAD_TOLERANCE
        return torch.allclose(ours.float(), logits.float(), atol=tolerance, rtol=tolerance)

    @contextmanager
    def _autocast(self, device: torch.device) -> Iterator[None]:
        with torch.autocast(device.type, torch.bfloat16, enabled=self.rounds):
            yield


def blocks(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The layers of the model: what transformers itself never splits over devices."""
    names = set(model._no_split_modules or ())
    return [module for module in model.modules() if type(module).__name__ in names]


def _kinds_of_attention(model: PreTrainedModel) -> set[str]:
    """What its layers are by its config; a window that no short row meets is nothing that a trial finds."""
    text = model.config.get_text_config()
    kinds: set[str] = {str(kind) for kind in getattr(text, "layer_types", None) or ()}
    if not kinds and getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True):
        kinds = {"sliding_attention"}
    return kinds or {"full_attention"}


def _head(model: PreTrainedModel) -> torch.nn.Module:
    head = model.get_output_embeddings()
    assert head is not None, "a causal language model has an output matrix"
    return head


def _spread(values: Tensor, mask: Tensor) -> Tensor:
    """Values of the True places of a (B, T - 1) mask as (B, T) with a first column of zeros."""
    grid = torch.zeros(mask.shape, dtype=values.dtype, device=values.device)
    grid = grid.masked_scatter(mask, values)
    return torch.nn.functional.pad(grid, (1, 0))
