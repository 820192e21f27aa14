"""Families beyond those that the shipped policy was shown: lists, yes or no, counts by name, settings that are text.

They take part where a mix asks for them. Those that turn a text into a text can stand in a sequential agent.
"""

from environments.nat_agent.families import NUMBER, TEXT, Family, Slot
from environments.nat_agent.plan import ArgumentKind, ArgumentRecipe, ConfigField
from environments.nat_agent.words import BILLED, MARKS, MEASURES, THINGS

WORDS = ArgumentRecipe(kind=ArgumentKind.WORDS, choices=tuple(THINGS), length=6)
THING, MARK, MEASURE = Slot(words=tuple(THINGS)), Slot(words=tuple(MARKS)), Slot(words=tuple(MEASURES))

MORE_FAMILIES: tuple[Family, ...] = (
    Family(
        key="wrap_text", phrase="put a {mark} round a {thing} text", name="{thing}_in_{mark}",
        purpose="text with {sign} before and after it", parameters={"text": "str"}, returns="str",
        body='"{sign}" + text + "{sign}"', mutants=('"{sign}" + text', 'text + "{sign}"'),
        slots={"mark": MARK, "thing": THING}, derived={"sign": "mark_sign"}, inputs={"text": TEXT},
    ),
    Family(
        key="turn_words", phrase="turn round the words of a {thing} text", name="{thing}_words_turned",
        purpose="the words of text in reverse order, one blank between them", parameters={"text": "str"}, returns="str",
        body='" ".join(text.split()[::-1])', mutants=('" ".join(text.split())', "text[::-1]"),
        slots={"thing": THING}, inputs={"text": TEXT},
    ),
    Family(
        key="add_words", phrase="say {first} before and {last} after a text", name="{first}_text_{last}",
        purpose="{first}, text and {last}, one blank between them", parameters={"text": "str"}, returns="str",
        body='"{first} " + text + " {last}"', mutants=('"{last} " + text + " {first}"', '"{first}" + text + "{last}"'),
        slots={"first": THING, "last": THING}, inputs={"text": TEXT},
    ),
    Family(
        key="count_letters", phrase="count the letters of a {thing} text", name="{thing}_letters",
        purpose="how many characters of text are no blanks", parameters={"text": "str"}, returns="int",
        body='len(text.replace(" ", ""))', mutants=("len(text.split())", 'len(text.replace(" ", "")) + 1'),
        slots={"thing": THING}, inputs={"text": TEXT},
    ),
    Family(
        key="tally", phrase="tally the words and characters of a {thing} note", name="{thing}_tally",
        purpose="words: how many words text has, characters: how many characters, blanks included",
        parameters={"text": "str"}, returns="dict[str, int]",
        body='{{"words": len(text.split()), "characters": len(text)}}',
        mutants=('{{"words": len(text), "characters": len(text.split())}}', '{{"words": len(text.split())}}'),
        slots={"thing": THING}, inputs={"text": TEXT},
    ),
    Family(
        key="within", phrase="tell whether a {measure} lies from {low} to {high}", name="{measure}_from_{low}_to_{high}",
        purpose="true if {measure} is at least {low} and at most {high}, else false", parameters={"{measure}": "float"},
        returns="bool", body="{low} <= {measure} <= {high}",
        mutants=("{measure} > {high}", "not ({low} <= {measure} <= {high})"),
        slots={"measure": MEASURE, "low": Slot(low=5, high=40), "high": Slot(low=45, high=85)}, inputs={"{measure}": NUMBER},
    ),
    Family(
        key="clip", phrase="keep a {measure} between {low} and {high}", name="{measure}_kept_{low}_{high}",
        purpose="{measure}, but {low} where it is less and {high} where it is more", parameters={"{measure}": "float"},
        returns="float", body="min(max({measure}, {low}.0), {high}.0)", mutants=("{measure}", "max({measure}, {low}.0)"),
        slots={"measure": MEASURE, "low": Slot(low=5, high=40), "high": Slot(low=45, high=85)}, inputs={"{measure}": NUMBER},
    ),
    Family(
        key="longest", phrase="find the longest of some {thing} labels", name="longest_{thing}_label",
        purpose="the first of the longest labels", parameters={"labels": "list[str]"}, returns="str",
        body="max(labels, key=len)", mutants=("min(labels, key=len)", "labels[-1][::-1]"),
        slots={"thing": THING}, inputs={"labels": WORDS},
    ),
    Family(
        key="keep_long", phrase="keep the {thing} words longer than {size}", name="{thing}_words_over_{size}",
        purpose="the words with more than {size} characters, in order", parameters={"words": "list[str]"},
        returns="list[str]", body="[word for word in words if len(word) > {size}]",
        mutants=("[word for word in words if len(word) < {size}]", "[word[::-1] for word in words]"),
        slots={"thing": THING, "size": Slot(low=3, high=6)}, inputs={"words": WORDS},
    ),
    Family(
        key="reading", phrase="write a {measure} reading in {unit}", name="{measure}_in_{unit}",
        purpose="{measure} rounded to digits, a blank and the unit", parameters={"{measure}": "float"}, returns="str",
        body='f"{{round({measure}, config.digits)}} {{config.unit}}"',
        mutants=('f"{{config.unit}} {{round({measure}, config.digits)}}"', 'f"{{round({measure}, config.digits)}}"'),
        slots={"measure": MEASURE, "unit": Slot(words=tuple(BILLED))}, inputs={"{measure}": NUMBER}, rounds=True,
        settings=(ConfigField(name="unit", type="str", default="{unit}"),),
    ),
)  # fmt: skip
