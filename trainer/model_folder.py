"""A Hugging Face directory that a user named: read from this disk alone, and refused in one line where it is not whole."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from core.errors import ConfigError, NatgymError, TrainingError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def read_model(directory: Path, dtype: "torch.dtype | None", attention: str | None = None) -> "PreTrainedModel":
    """The causal language model of a directory, on the CPU. `dtype` None: that of its files.

    Raises ConfigError where there is none, or one that is broken or lacks weights; TrainingError where memory runs out.
    """
    from transformers import AutoModelForCausalLM

    with reading(directory), _one_line():
        read = AutoModelForCausalLM.from_pretrained(
            directory, dtype=dtype or "auto", attn_implementation=attention, local_files_only=True, output_loading_info=True
        )
        model, found = cast("tuple[PreTrainedModel, dict[str, set[str]]]", read)
        if missing := sorted(found["missing_keys"]):  # else they would be random
            raise ConfigError(f"model {directory}: {len(missing)} weights are missing: {', '.join(missing[:3])}")
    return model


@contextmanager
def reading(directory: Path) -> Generator[None]:
    """Around what reads the directory; what goes wrong is the directory's fault. Raises as `read_model` does."""
    # a name that is no directory would be asked for on the internet
    if not (directory / "config.json").is_file():
        raise ConfigError(f"model {directory}: no config.json there; expected a Hugging Face directory")
    try:
        yield
    except NatgymError:
        raise
    except MemoryError as error:
        raise TrainingError(f"model {directory}: out of memory") from error
    except Exception as error:
        raise ConfigError(f"model {directory}: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error


@contextmanager
def _one_line() -> Generator[None]:
    """Without the tables and bars that transformers prints: what they say is in the error."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
