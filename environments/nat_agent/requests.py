"""Writes the requests that people might make, so that there are as many as one likes, and splits them for good.

A tool belongs to the held-out split or to the training split by the hash of its name, whatever seed or size a
dataset is made with, so no tool of one split can occur in the other. A mix says what is asked for: `small` is what the
shipped policy was shown.
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from enum import StrEnum

from environments.nat_agent.families import FAMILIES, Family, Slot
from environments.nat_agent.mcp_registry import catalogue
from environments.nat_agent.plan import AgentSpec, ArgumentKind, Scaffold
from environments.nat_agent.plan_rules import WITHOUT_SERVERS
from environments.nat_agent.planner import ALL_FAMILIES, ALL_SCAFFOLD_PHRASES, SCAFFOLD_PHRASES, FilledTool, plan_request
from environments.nat_agent.words import PERSONS

HELD_OUT_SHARE = 0.15
SERVER_SHARE = 0.2
TOOL_COUNTS, TOOL_COUNT_WEIGHTS = (1, 2, 3), (0.65, 0.28, 0.07)
ROW_COUNTS = (2, 3)
OPENINGS = ("{person} needs an agent", "Build {person} an agent", "Make an agent for {person}")


class Mix(StrEnum):
    """Which agents are asked for."""

    SMALL = "small"
    """Three scaffolds and fourteen families of tools."""
    FULL = "full"
    """All five scaffolds, and families with lists, objects, yes or no and settings that are text."""


def specs(seed: int, *, held_out: bool, mix: Mix = Mix.SMALL) -> Iterator[AgentSpec]:
    """Distinct specifications of one split, without end. The same seed gives the same sequence."""
    chance = random.Random(f"{'held_out' if held_out else 'train'}-{seed}")
    write = write_request if mix is Mix.SMALL else write_any_request
    seen: set[str] = set()
    while True:
        request = write(chance, held_out=held_out)
        if request not in seen:
            seen.add(request)
            yield plan_request(request, task_id=f"nat-{hashlib.sha256(request.encode()).hexdigest()[:12]}")


def is_held_out(tool_name: str) -> bool:
    """Whether a tool of that name is only ever measured on."""
    return int.from_bytes(hashlib.sha256(tool_name.encode()).digest()[:4], "big") < HELD_OUT_SHARE * 2**32


def write_request(chance: random.Random, *, held_out: bool) -> str:
    """One request of the small mix in words, for tools of one split."""
    count = chance.choices(TOOL_COUNTS, TOOL_COUNT_WEIGHTS)[0]
    families = chance.sample(FAMILIES, count)
    opening = chance.choice(OPENINGS).format(person=chance.choice(PERSONS))
    scaffold = chance.choice(tuple(SCAFFOLD_PHRASES))
    using = f" using {chance.choice(catalogue()).name}" if chance.random() < SERVER_SHARE else ""
    return f"{opening} {scaffold}{using}: {', '.join(_phrase(family, chance, held_out) for family in families)}."


def write_any_request(chance: random.Random, *, held_out: bool) -> str:
    """One request of the full mix in words, for tools of one split."""
    phrase, scaffold = chance.choice(tuple(ALL_SCAFFOLD_PHRASES.items()))
    if scaffold is Scaffold.SEQUENTIAL:
        families = _row(chance)
    else:
        fitting = [one for one in ALL_FAMILIES if fits(one, scaffold)]
        families = chance.sample(fitting, chance.choices(TOOL_COUNTS, TOOL_COUNT_WEIGHTS)[0])
    opening = chance.choice(OPENINGS).format(person=chance.choice(PERSONS))
    takes_server = scaffold not in WITHOUT_SERVERS and chance.random() < SERVER_SHARE
    using = f" using {chance.choice(catalogue()).name}" if takes_server else ""
    return f"{opening} {phrase}{using}: {', '.join(_phrase(family, chance, held_out) for family in families)}."


def fits(family: Family, scaffold: Scaffold) -> bool:
    """Whether a scaffold can run the tool: a router writes no arguments, and ReWOO takes no list for evidence."""
    if scaffold is Scaffold.ROUTER:
        return list(family.parameters.values()) == ["str"]
    return scaffold is not Scaffold.REWOO or not family.returns.startswith("list")


def _row(chance: random.Random) -> Sequence[Family]:
    """Families that can stand in a row: each takes any text, all but the last make one."""
    takes_text = [one for one in ALL_FAMILIES if [recipe.kind for recipe in one.inputs.values()] == [ArgumentKind.TEXT]]
    makes_text = [one for one in takes_text if one.returns == "str"]
    first = chance.sample(makes_text, chance.choice(ROW_COUNTS) - 1)
    return [*first, chance.choice([one for one in takes_text if one not in first])]


def _phrase(family: Family, chance: random.Random, held_out: bool) -> str:
    """The family's phrase, its gaps filled in so that they make a tool of the wanted split."""
    while True:
        gaps: dict[str, str] = {}
        for name, slot in family.slots.items():
            gaps[name] = _fill(slot, tuple(gaps.values()), chance)
        values = family.values(gaps)  # None where the words make no tool, such as miles to kilograms
        if values is not None and is_held_out(FilledTool(family, values).name) == held_out:
            return family.phrase.format(**gaps)


def _fill(slot: Slot, taken: tuple[str, ...], chance: random.Random) -> str:
    if slot.words:
        return chance.choice([word for word in slot.words if word not in taken])
    value = chance.uniform(slot.low, slot.high)
    return f"{value:.{slot.digits}f}" if slot.digits else str(round(value))
