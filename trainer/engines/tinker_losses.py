"""Our losses as a Tinker service computes them, and a batch as the rows that it takes.

Tinker adds token losses up; what divides them is in the advantages, so that shares of a step add up to the same mean as
elsewhere. A service that takes means of them (`scales`) is given advantages that undo it. Source of its losses: https://tinker-docs.thinkingmachines.ai/losses.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from core.errors import TrainingError
from trainer.algorithms.base import LossFunction, Predictions
from trainer.algorithms.cispo import CISPO
from trainer.algorithms.grpo import GRPO
from trainer.algorithms.reinforce import Reinforce
from trainer.algorithms.sft import SFT
from trainer.batch import Batch
from trainer.engines.base import Pass
from trainer.engines.tinker_service import Row, ServiceLoss

LIKELIHOOD = ServiceLoss("cross_entropy", {})
"""-sum of weight times log p."""
DERIVATIVE = ServiceLoss("importance_sampling", {})
"""Against the logprobs of the moment its ratio is 1 and its gradient the advantages: so a loss of ours goes back."""


def service_loss(loss: LossFunction) -> ServiceLoss | None:
    """What the service has for that loss of an algorithm of ours; None where it has nothing.

    Its ppo is GRPO's without the dual clip, and neither it nor importance_sampling bounds the ratio by `ratio_cap`:
    both differ only for tokens whose ratio lies beyond 3 and 5. CISPO and SFT are the same.
    """
    algorithm = getattr(loss, "__self__", None)
    match algorithm:
        case GRPO(config=config):
            return ServiceLoss("ppo", _clips(1 - config.clip_low, 1 + config.clip_high))
        case CISPO(config=config):
            return ServiceLoss("cispo", _clips(0.0, config.ratio_cap))
        case Reinforce():
            return ServiceLoss("importance_sampling", {})
        case SFT():
            return LIKELIHOOD
        case _:
            return None


def scales(batch: Batch, *, means: bool) -> Tensor:
    """What each row's advantages are multiplied by, (B, 1): 1, or what undoes a mean over its tokens and then over rows."""
    return (batch.lengths[:, None] - 1) * float(len(batch)) if means else torch.ones(len(batch), 1)


def rows_for(batch: Batch, loss: ServiceLoss, tokens: int, scale: Tensor) -> list[Row]:
    """The rows of a batch for that loss; every other token counts nothing.

    A token's share is its advantage times its weight over the step's tokens, times its row's scale (B, 1).
    """
    shares = torch.where(batch.loss_mask, batch.advantages * batch.weights / max(tokens, 1), 0.0)
    if loss.name == LIKELIHOOD.name:
        return _rows(batch, {"weights": shares})
    old = torch.where(batch.loss_mask, batch.old_logprobs, 0.0)
    return _rows(batch, {"logprobs": old, "advantages": shares * scale})


def derivative_rows(batch: Batch, logprobs: Sequence[Sequence[float]], weights: Tensor, scale: Tensor) -> list[Row]:
    """The rows whose gradient is that of -sum of weight (B, T) times log p, by `DERIVATIVE`; the logprobs are the service's."""
    now = torch.where(batch.loss_mask, _spread(batch, logprobs), 0.0)
    return _rows(batch, {"logprobs": now, "advantages": weights * scale})


def unweighted_rows(batch: Batch) -> list[Row]:
    """The rows of a batch for their logprobs alone."""
    return _rows(batch, {"weights": torch.zeros(batch.token_ids.shape)})


def derived(batch: Batch, loss: LossFunction, tokens: int, logprobs: Sequence[Sequence[float]]) -> tuple[Pass, Tensor]:
    """What a loss of ours makes of the service's logprobs: its measurements, and -dL/dlogp (B, T).

    Raises TrainingError for a loss that is not finite.
    """
    predictions = predictions_from(batch, logprobs)
    share = loss(predictions, batch, tokens)
    if not torch.isfinite(share.value):
        raise TrainingError(f"the loss is {share.value.item()}; the batch was not learned from")
    share.value.backward()
    assert predictions.logprobs.grad is not None
    passed = batch.tokens
    means = {name: number.item() / max(passed, 1) for name, number in share.sums.items()}
    maxima = {name: number.item() for name, number in share.maxima.items()}
    measured = Pass(share.value.item(), means, maxima, passed, int(batch.lengths.sum()))
    return measured, -predictions.logprobs.grad


def predictions_from(batch: Batch, logprobs: Sequence[Sequence[float]]) -> Predictions:
    """What the service said of a batch's rows, as a loss wants it; the logprobs are leaves that take a gradient.

    It tells no distribution: entropy is estimated by -log p of the tokens that there are, right in the mean on policy.
    Raises TrainingError where a logprob of a completion token is not finite.
    """
    values = torch.where(batch.loss_mask, _spread(batch, logprobs), 0.0)
    if not torch.isfinite(values).all():
        raise TrainingError("the Tinker service answered a logprob that is not finite; the batch was not learned from")
    return Predictions(values.requires_grad_(), -values.detach())


def _spread(batch: Batch, logprobs: Sequence[Sequence[float]]) -> Tensor:
    values = torch.zeros(batch.token_ids.shape)
    for row, found in enumerate(logprobs):
        values[row, 1 : len(found) + 1] = torch.tensor(found)
    return values


def _clips(low: float, high: float) -> dict[str, float]:
    return {"clip_low_threshold": low, "clip_high_threshold": high}


def _rows(batch: Batch, fields: Mapping[str, Tensor]) -> list[Row]:
    rows: list[Row] = []
    for row, length in enumerate(batch.lengths.tolist()):
        ids = batch.token_ids[row, :length].tolist()
        values = {name: field[row, 1:length].tolist() for name, field in fields.items()}
        rows.append(Row(ids[:-1], ids[1:], values))
    return rows
