"""What two sections of a run's file have to agree on; each alone looks right."""

from core.errors import ConfigError
from core.types import JsonObject
from services.run_file import Sections

MAX_LENGTH = 4096
"""Of trainer.inference, unless told."""


def check_agreement(sections: Sections) -> None:
    """What is sampled has to be what is trained on, and as long as the sampler takes. Raises ConfigError."""
    engine, policy = _part(sections.trainer, "engine"), sections.policy
    sampled, trained = _number(policy, "temperature", 1.0), _number(engine, "temperature", 1.0)
    if sampled != trained:
        raise ConfigError(
            f"policy.temperature is {sampled:g} and trainer.engine.temperature {trained:g}: the logprobs would be of two "
            "distributions; set both alike"
        )
    if engine.get("name") == "tinker" or sections.trainer.get("external"):
        return  # not sampled here
    wanted, longest = policy.get("max_tokens"), _number(_part(sections.trainer, "inference"), "max_length", MAX_LENGTH)
    if wanted is not None and _number(policy, "max_tokens", 0) > longest:
        raise ConfigError(
            f"policy.max_tokens is {wanted} and trainer.inference.max_length {longest:g}: longer conversations would be lost; "
            "raise the one or lower the other"
        )


def _part(section: JsonObject, name: str) -> JsonObject:
    found = section.get(name)
    return found if isinstance(found, dict) else {}


def _number(section: JsonObject, key: str, default: float) -> float:
    """The value as a number; what is none is told by whoever reads the section."""
    found = section.get(key, default)
    try:
        return float(found) if isinstance(found, int | float | str) else default
    except ValueError:
        return default
