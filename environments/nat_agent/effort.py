"""How much of a deliverable is tried out before it is judged."""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple


class Level(StrEnum):
    """How thorough a verdict is. What a level does not try is left out of the scores, not counted as zero."""

    QUICK = "quick"
    """Behaviour, the configuration and one scenario; the agent's tests are not tried."""
    STANDARD = "standard"
    """The same, and the tests on the reference and two sets of mutants: what training uses by default."""
    FULL = "full"
    """Everything that docs/reward.md names."""


class Effort(NamedTuple):
    """What one level does."""

    inputs: int
    """Hidden inputs for each tool."""
    refusals: int
    """Wrong calls, at most, that each tool must refuse."""
    scenarios: bool
    """Whether the workflow is also judged by chained tools, by recovery from an error, and by a second run."""
    mutants: int
    """Mutants of each tool that its tests must fail on, at most; 0: the tests are not tried."""
    variants: int
    """Behaviour-preserving variants of the references that the tests must pass on."""


EFFORTS: Mapping[Level, Effort] = {
    Level.QUICK: Effort(inputs=12, refusals=1, scenarios=False, mutants=0, variants=0),
    Level.STANDARD: Effort(inputs=12, refusals=1, scenarios=False, mutants=2, variants=0),
    Level.FULL: Effort(inputs=20, refusals=6, scenarios=True, mutants=3, variants=2),
}
