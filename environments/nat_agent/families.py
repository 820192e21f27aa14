"""Families of tools: a phrase of a request on one side, a tool with its reference, inputs and mutants on the other.

A family is a table row. Its phrase is at once what the request writer fills in and what the offline planner
recognises, so that a plan can be made from words alone.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from environments.nat_agent.plan import ArgumentKind, ArgumentRecipe, ConfigField
from environments.nat_agent.words import (
    AMOUNTS,
    BILLED,
    CHARGES,
    COLLECTIONS,
    LEVELS,
    MARK_SIGNS,
    MARKS,
    MEASURES,
    REDUCTIONS,
    SERVICES,
    SHAPES,
    THINGS,
    UNITS,
)  # fmt: skip

WORD, INTEGER, DECIMAL = r"[a-z]+", r"\d+", r"\d+\.\d+"

NUMBER = ArgumentRecipe(kind=ArgumentKind.NUMBER, low=1, high=90, digits=1)
WHOLE = ArgumentRecipe(kind=ArgumentKind.INTEGER, low=1, high=99)
NUMBERS = ArgumentRecipe(kind=ArgumentKind.NUMBERS, low=1, high=60, digits=0, length=4)
TEXT = ArgumentRecipe(kind=ArgumentKind.TEXT, choices=tuple(THINGS), length=5)
DAY = ArgumentRecipe(
    kind=ArgumentKind.CHOICE,
    choices=tuple(f"20{year}-{month:02}-{day:02}" for year in (23, 24, 25) for month in range(1, 13) for day in (1, 9, 17, 28)),
)


@dataclass(frozen=True)
class Slot:
    """A gap in a phrase: one of `words`, or a number between `low` and `high` with `digits` decimals."""

    words: tuple[str, ...] = ()
    low: int = 2
    high: int = 99
    digits: int = 0

    @property
    def pattern(self) -> str:
        return WORD if self.words else DECIMAL if self.digits else INTEGER


@dataclass(frozen=True)
class Family:
    """One kind of tool. `{slot}` in any text stands for what the phrase's gap holds."""

    key: str
    phrase: str
    name: str
    purpose: str
    parameters: Mapping[str, str]
    """Parameter name -> Python type. A `{slot}` in a name is filled in."""
    returns: str
    body: str
    """The expression that the tool returns; may use the parameters and `config.digits`."""
    mutants: tuple[str, ...]
    slots: Mapping[str, Slot]
    inputs: Mapping[str, ArgumentRecipe]
    imports: str = ""
    rounds: bool = False
    """The tool has a setting `digits`: decimal places of its answer."""
    derived: Mapping[str, str] = field(default_factory=dict)
    """Slots that follow from others: slot -> name of a function in DERIVATIONS."""
    settings: tuple[ConfigField, ...] = ()
    """More settings; a `{slot}` in a text default is filled in."""

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Finds the phrase in a request; each gap is a group."""
        text = re.escape(self.phrase)
        for slot, gap in self.slots.items():
            escaped = re.escape("{" + slot + "}")
            text = text.replace(escaped, f"(?P<{slot}>{gap.pattern})", 1).replace(escaped, f"(?P={slot})")
        return re.compile(rf"(?<![a-z]){text}(?![a-z0-9])")

    def values(self, found: Mapping[str, str]) -> dict[str, str] | None:
        """All slots, the derived ones included; None where a word does not fit its gap."""
        for slot, gap in self.slots.items():
            if gap.words and found[slot] not in gap.words:
                return None
        values = dict(found)
        for slot, rule in self.derived.items():
            value = DERIVATIONS[rule](values)
            if value is None:
                return None
            values[slot] = value
        return values


def unit_factor(values: Mapping[str, str]) -> str | None:
    """How many of the target unit make one of the source unit, to four significant digits."""
    for sizes in UNITS.values():
        source, target = sizes.get(values["source"]), sizes.get(values["target"])
        if source and target and source != target:
            factor = source / target
            if not 0.01 <= factor < 10_000:
                return None
            return f"{factor:.4g}" if factor < 1000 else f"{factor:.1f}"
    return None


def mark_sign(values: Mapping[str, str]) -> str | None:
    """The character that a mark's name stands for."""
    return MARK_SIGNS.get(values["mark"])


DERIVATIONS = {"unit_factor": unit_factor, "mark_sign": mark_sign}

ALL_UNITS = tuple(unit for sizes in UNITS.values() for unit in sizes)


def _words(values: Sequence[str]) -> Slot:
    return Slot(words=tuple(values))


FAMILIES: tuple[Family, ...] = (
    Family(
        key="convert", phrase="convert {source} to {target}", name="{source}_to_{target}",
        purpose="multiply value by {factor}", parameters={"value": "float"}, returns="float",
        body="round(value * {factor}, config.digits)",
        mutants=("round(value / {factor}, config.digits)", "round(value * {factor} + 1, config.digits)"),
        slots={"source": _words(ALL_UNITS), "target": _words(ALL_UNITS)}, derived={"factor": "unit_factor"},
        inputs={"value": NUMBER}, rounds=True,
    ),
    Family(
        key="charge", phrase="work out {service} cost from {base} plus {rate} per {unit}", name="{service}_by_{unit}",
        purpose="{base} plus {rate} times {unit}", parameters={"{unit}": "float"}, returns="float",
        body="round({base} + {rate} * {unit}, config.digits)",
        mutants=("round({base} - {rate} * {unit}, config.digits)", "round({base} + {rate} + {unit}, config.digits)"),
        slots={"service": _words(SERVICES), "base": Slot(low=2, high=60), "rate": Slot(low=1, high=9, digits=1),
               "unit": _words(BILLED)},
        inputs={"{unit}": NUMBER}, rounds=True,
    ),
    Family(
        key="add_percent", phrase="add {rate} percent {charge} to a {amount}", name="{amount}_with_{charge}",
        purpose="{amount} plus {rate} percent", parameters={"{amount}": "float"}, returns="float",
        body="round({amount} * (100 + {rate}) / 100, config.digits)",
        mutants=("round({amount} * (100 - {rate}) / 100, config.digits)", "round({amount} + {rate}, config.digits)"),
        slots={"rate": Slot(low=2, high=48), "charge": _words(CHARGES), "amount": _words(AMOUNTS)},
        inputs={"{amount}": NUMBER}, rounds=True,
    ),
    Family(
        key="take_percent", phrase="take {rate} percent {reduction} off a {amount}", name="{amount}_after_{reduction}",
        purpose="{amount} minus {rate} percent", parameters={"{amount}": "float"}, returns="float",
        body="round({amount} * (100 - {rate}) / 100, config.digits)",
        mutants=("round({amount} * (100 + {rate}) / 100, config.digits)", "round({amount} - {rate}, config.digits)"),
        slots={"rate": Slot(low=2, high=48), "reduction": _words(REDUCTIONS), "amount": _words(AMOUNTS)},
        inputs={"{amount}": NUMBER}, rounds=True,
    ),
    Family(
        key="count_word", phrase="count the word {thing}", name="count_{thing}",
        purpose="how often {thing} occurs in text", parameters={"text": "str"}, returns="int",
        body='text.split().count("{thing}")',
        mutants=('text.split().count("{thing}") + 1', "len(text.split())"),
        slots={"thing": _words(THINGS)},
        inputs={"text": ArgumentRecipe(kind=ArgumentKind.TEXT, choices=("{thing}", "and", "the", "moon"), length=5)},
    ),
    Family(
        key="replace_word", phrase="replace {old} with {new}", name="{old}_to_{new}",
        purpose="replace {old} with {new} in text", parameters={"text": "str"}, returns="str",
        body='text.replace("{old}", "{new}")',
        mutants=('text.replace("{new}", "{old}")', 'text + "{new}"'),
        slots={"old": _words(THINGS), "new": _words(THINGS)},
        inputs={"text": ArgumentRecipe(kind=ArgumentKind.TEXT, choices=("{old}", "and", "the", "moon"), length=4)},
    ),
    Family(
        key="join_words", phrase="join the words of a text with a {mark} after {thing}", name="{thing}_{mark}_join",
        purpose="{thing} and the words of text joined by {sign}", parameters={"text": "str"}, returns="str",
        body='"{sign}".join(["{thing}", *text.split()])',
        mutants=('"{sign}".join(text.split())', '" ".join(["{thing}", *text.split()])'),
        slots={"mark": _words(MARKS), "thing": _words(THINGS)}, derived={"sign": "mark_sign"}, inputs={"text": TEXT},
    ),
    Family(
        key="sum_above", phrase="sum the {collection} above {limit}", name="{collection}_sum_above_{limit}",
        purpose="sum of the {collection} greater than {limit}", parameters={"{collection}": "list[float]"}, returns="float",
        body="sum(x for x in {collection} if x > {limit})",
        mutants=("sum(x for x in {collection} if x < {limit})", "sum({collection})"),
        slots={"collection": _words(COLLECTIONS), "limit": Slot(low=8, high=50)}, inputs={"{collection}": NUMBERS},
    ),
    Family(
        key="count_below", phrase="count the {collection} below {limit}", name="{collection}_below_{limit}",
        purpose="number of {collection} less than {limit}", parameters={"{collection}": "list[float]"}, returns="int",
        body="len([x for x in {collection} if x < {limit}])",
        mutants=("len([x for x in {collection} if x > {limit}])", "len({collection})"),
        slots={"collection": _words(COLLECTIONS), "limit": Slot(low=8, high=50)}, inputs={"{collection}": NUMBERS},
    ),
    Family(
        key="look_up", phrase="look up points for {first} {one}, {second} {two} and {third} {three}",
        name="{first}_{second}_points", purpose="{first} is {one}, {second} is {two}, {third} is {three}, else 0",
        parameters={"item": "str"}, returns="int",
        body='{{"{first}": {one}, "{second}": {two}, "{third}": {three}}}.get(item, 0)',
        mutants=('{{"{first}": {one}}}.get(item, 1)', '{{"{second}": {one}, "{third}": {two}}}.get(item, {three})'),
        slots={"first": _words(THINGS), "one": Slot(low=2, high=99), "second": _words(THINGS), "two": Slot(low=2, high=99),
               "third": _words(THINGS), "three": Slot(low=2, high=99)},
        inputs={"item": ArgumentRecipe(kind=ArgumentKind.CHOICE, choices=("{first}", "{second}", "{third}", "moon"))},
    ),
    Family(
        key="days_after", phrase="find the day {days} days after a {thing} date", name="{thing}_plus_{days}_days",
        purpose="the date {days} days after day", parameters={"day": "str"}, returns="str",
        body="(date.fromisoformat(day) + timedelta(days={days})).isoformat()",
        mutants=("(date.fromisoformat(day) - timedelta(days={days})).isoformat()", "day"),
        slots={"days": Slot(low=2, high=60), "thing": _words(THINGS)}, inputs={"day": DAY},
        imports="from datetime import date, timedelta\n",
    ),
    Family(
        key="classify", phrase="call a {measure} {above} over {limit} and {below} otherwise", name="{measure}_{above}_{below}",
        purpose="{above} if {measure} is over {limit} else {below}", parameters={"{measure}": "float"}, returns="str",
        body='"{above}" if {measure} > {limit} else "{below}"',
        mutants=('"{below}" if {measure} > {limit} else "{above}"', '"{limit}"'),
        slots={"measure": _words(MEASURES), "above": _words(LEVELS), "limit": Slot(low=10, high=80), "below": _words(LEVELS)},
        inputs={"{measure}": NUMBER},
    ),
    Family(
        key="area", phrase="price a {shape} at {rate} per square meter", name="{shape}_price_{rate}",
        purpose="width times height times {rate}", parameters={"width": "float", "height": "float"}, returns="float",
        body="round(width * height * {rate}, config.digits)",
        mutants=("round((width + height) * {rate}, config.digits)", "round(width * height + {rate}, config.digits)"),
        slots={"shape": _words(SHAPES), "rate": Slot(low=3, high=90)}, inputs={"width": NUMBER, "height": NUMBER}, rounds=True,
    ),
    Family(
        key="share", phrase="split {thing} packs of {size} among people", name="{thing}_packs_of_{size}",
        purpose="packs times {size} divided by people without rest", parameters={"packs": "int", "people": "int"},
        returns="int",
        body="packs * {size} // people",
        mutants=("packs * {size} % people", "(packs + {size}) // people"),
        slots={"thing": _words(THINGS), "size": Slot(low=3, high=60)},
        inputs={"packs": WHOLE, "people": ArgumentRecipe(kind=ArgumentKind.INTEGER, low=2, high=9)},
    ),
)  # fmt: skip

BY_KEY = {family.key: family for family in FAMILIES}
