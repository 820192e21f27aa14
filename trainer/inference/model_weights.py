"""What a `transformers` model allows: how long its texts may be, and new numbers by Hugging Face names."""

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from core.errors import TrainingError

UNBOUNDED = 1 << 30
"""Of models without positions, such as state spaces."""


@torch.no_grad()
def assign_state(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> None:
    """Copy weights in, in place. Names that share a tensor may come once or each.

    Raises TrainingError before anything is changed.
    """
    places = model.state_dict()
    unknown = sorted(set(weights) - set(places))
    given = {places[name].data_ptr() for name in weights if name in places}
    missing = sorted(name for name, place in places.items() if place.data_ptr() not in given)
    if unknown or missing:
        raise TrainingError(f"weights do not fit the model: missing {missing[:3]}, unknown {unknown[:3]}")
    for name, value in weights.items():
        if value.shape != places[name].shape:
            raise TrainingError(f"weights {name}: expected shape {tuple(places[name].shape)}, found {tuple(value.shape)}")
    for name, value in weights.items():
        places[name].copy_(value)


def longest(model: PreTrainedModel) -> int:
    """The longest text whose early tokens do not depend on how it goes on.

    Rotary positions that stretch with the text (dynamic, longrope) do so beyond the length of the first training.
    """
    config = model.config.get_text_config()
    limits = [getattr(config, name, None) for name in ("max_position_embeddings", "n_positions", "max_seq_len")]
    stretched = [
        kind.get("original_max_position_embeddings") or limits[0]
        for kind in _rope_kinds(getattr(config, "rope_parameters", None))
        if kind.get("rope_type") in ("dynamic", "longrope")
    ]
    return min((limit for limit in (*limits, *stretched) if isinstance(limit, int)), default=UNBOUNDED)


def _rope_kinds(parameters: object) -> list[dict[str, object]]:
    """One description of positions, or one a kind of layer."""
    if not isinstance(parameters, dict):
        return []
    return [parameters] if "rope_type" in parameters else [kind for one in parameters.values() for kind in _rope_kinds(one)]
