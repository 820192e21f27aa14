"""Word problems of several steps, in the form of GSM8K: a question, and an answer that ends in `#### number`.

Each template draws names and numbers and works the answer out, exactly. Those of the held-out split are other stories
with other chains of steps, so that what was learned by heart is worth nothing there.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

NAMES = ("Amira", "Boris", "Chen", "Dalia", "Emeka", "Freya", "Goran", "Hana", "Ivo", "Jun", "Kofi", "Lena")
THINGS = ("pencils", "stickers", "marbles", "postcards", "beads", "shells")


class Problem(NamedTuple):
    """One problem; `answer` is its reasoning and `#### number`."""

    question: str
    answer: str


Template = Callable[[random.Random], Problem]


def _solved(question: str, steps: Sequence[str], result: int) -> Problem:
    return Problem(question, "\n".join([*steps, f"#### {result}"]))


def shopping(dice: random.Random) -> Problem:
    """Price times count, twice, and the change."""
    name, count, price, other = dice.choice(NAMES), dice.randint(2, 9), dice.randint(2, 9), dice.randint(3, 20)
    spent = count * price + other
    note = (spent // 50 + 1) * 50
    return _solved(
        f"{name} buys {count} notebooks for ${price} each and a pen for ${other}, and pays with ${note}. "
        "How many dollars of change are there?",
        [f"The notebooks cost {count} * {price} = {count * price}.", f"All of it costs {count * price} + {other} = {spent}.",
         f"The change is {note} - {spent} = {note - spent}."],
        note - spent,
    )  # fmt: skip


def sharing(dice: random.Random) -> Problem:
    """Double, give away, divide."""
    name, things, friends, each = dice.choice(NAMES), dice.choice(THINGS), dice.randint(2, 6), dice.randint(3, 12)
    lost = dice.randint(1, 9)
    first = friends * each + lost
    start = first if first % 2 == 0 else first + 1
    lost = 2 * start - friends * each
    return _solved(
        f"{name} has {start} {things} and is given as many again. Then {name} loses {lost} of them and shares the rest equally "
        f"between {friends} friends. How many {things} does each friend get?",
        [f"There are 2 * {start} = {2 * start} {things}.", f"After the loss {2 * start} - {lost} = {friends * each} are left.",
         f"Each friend gets {friends * each} / {friends} = {each}."],
        each,
    )  # fmt: skip


def working_week(dice: random.Random) -> Problem:
    """Hours at two rates."""
    name, rate, hours, extra = dice.choice(NAMES), dice.randint(5, 15) * 2, dice.randint(20, 40), dice.randint(2, 10)
    base, more = rate * hours, rate * 3 // 2 * extra
    return _solved(
        f"{name} earns ${rate} an hour, and half as much again for each extra hour. "
        f"This week {name} worked {hours} hours and {extra} extra hours. How many dollars did {name} earn?",
        [f"The {hours} hours bring {rate} * {hours} = {base}.", f"An extra hour brings {rate} * 3 / 2 = {rate * 3 // 2}.",
         f"The extra hours bring {rate * 3 // 2} * {extra} = {more}.", f"Together that is {base} + {more} = {base + more}."],
        base + more,
    )  # fmt: skip


def ages(dice: random.Random) -> Problem:
    """Times, plus, and years that pass."""
    (young, old), age = dice.sample(NAMES, 2), dice.randint(4, 12)
    times, plus, years = dice.randint(2, 4), dice.randint(1, 9), dice.randint(2, 15)
    now = age * times + plus
    return _solved(
        f"{old} is {plus} years older than {times} times the age of {young}, who is {age}. "
        f"How old will both be together in {years} years?",
        [f"{old} is {times} * {age} + {plus} = {now}.", f"Together they are {age} + {now} = {age + now}.",
         f"In {years} years that is {age + now} + 2 * {years} = {age + now + 2 * years}."],
        age + now + 2 * years,
    )  # fmt: skip


def harvest(dice: random.Random) -> Problem:
    """Rows, trees and fruit, less what spoils, in boxes."""
    rows, trees, box = dice.randint(3, 9), dice.randint(4, 9), dice.choice((5, 10))
    fruit = dice.randint(2, 6) * box
    total = rows * trees * fruit
    bad = dice.randint(1, 5) * box
    boxes = (total - bad) // box
    return _solved(
        f"An orchard has {rows} rows of {trees} trees, and each tree bears {fruit} apples. {bad} apples are bad, and "
        f"the others are packed {box} to a box. How many boxes are packed?",
        [f"There are {rows} * {trees} = {rows * trees} trees.", f"They bear {rows * trees} * {fruit} = {total} apples.",
         f"{total} - {bad} = {total - bad} are good.", f"They fill {total - bad} / {box} = {boxes} boxes."],
        boxes,
    )  # fmt: skip


def journey(dice: random.Random) -> Problem:
    """Two speeds, two times, and what is left of the way."""
    name, fast, slow = dice.choice(NAMES), dice.randint(50, 90), dice.randint(15, 45)
    first, second, left = dice.randint(2, 5), dice.randint(1, 4), dice.randint(5, 95)
    done = fast * first + slow * second
    return _solved(
        f"{name} drives for {first} hours at {fast} km an hour and then for {second} hours at {slow} km an hour. "
        f"The whole way is {done + left} km. How many km are left?",
        [f"The first part is {fast} * {first} = {fast * first} km.", f"The second is {slow} * {second} = {slow * second} km.",
         f"{fast * first} + {slow * second} = {done} km are done.", f"{done + left} - {done} = {left} km are left."],
        left,
    )  # fmt: skip


def discount(dice: random.Random) -> Problem:
    """A percentage off, and a coupon."""
    name, percent, price = dice.choice(NAMES), dice.choice((10, 20, 25, 50)), dice.randint(2, 20) * 20
    off = price * percent // 100
    coupon = dice.randint(1, 9)
    return _solved(
        f"A coat costs ${price}. In the sale it is {percent}% cheaper, and {name} also has a coupon for ${coupon}. "
        f"How many dollars does {name} pay?",
        [f"{percent}% of {price} is {off}.", f"In the sale it costs {price} - {off} = {price - off}.",
         f"With the coupon it is {price - off} - {coupon} = {price - off - coupon}."],
        price - off - coupon,
    )  # fmt: skip


def library(dice: random.Random) -> Problem:
    """Shelves of two kinds, and books that are lent out and come back."""
    tall, low, books, fewer = dice.randint(3, 8), dice.randint(3, 8), dice.randint(30, 60), dice.randint(5, 20)
    lent, back = dice.randint(40, 80), dice.randint(5, 35)
    held = tall * books + low * (books - fewer)
    return _solved(
        f"A library has {tall} tall shelves with {books} books each, and {low} low shelves with {fewer} books fewer on each. "
        f"{lent} books are lent out, and {back} of them come back. How many books are in the library now?",
        [f"The tall shelves hold {tall} * {books} = {tall * books}.",
         f"A low shelf holds {books} - {fewer} = {books - fewer}, all of them {low * (books - fewer)}.",
         f"Together that is {held}.", f"{held} - {lent} + {back} = {held - lent + back} are there now."],
        held - lent + back,
    )  # fmt: skip


def tank(dice: random.Random) -> Problem:
    """A tank that fills and leaks at once."""
    start, inflow, leak = dice.randint(10, 90), dice.randint(12, 30), dice.randint(2, 10)
    minutes = dice.randint(5, 30)
    full = start + (inflow - leak) * minutes
    return _solved(
        f"A tank holds {start} litres. {inflow} litres flow in each minute while {leak} litres leak out. "
        f"The tank is full when it holds {full} litres. After how many minutes is it full?",
        [f"Each minute it gains {inflow} - {leak} = {inflow - leak} litres.",
         f"{full} - {start} = {full - start} litres are missing.",
         f"That takes {full - start} / {inflow - leak} = {minutes} minutes."],
        minutes,
    )  # fmt: skip


def bakery(dice: random.Random) -> Problem:
    """What is sold at two prices, less what it cost."""
    rolls, loaves, cost = dice.randint(30, 80), dice.randint(10, 30), dice.randint(20, 60)
    roll, loaf, half = dice.randint(1, 3), dice.randint(4, 8), dice.randint(2, 8) * 2
    taken = rolls * roll + (loaves - half) * loaf + half * loaf // 2
    return _solved(
        f"A bakery sells {rolls} rolls for ${roll} each and {loaves} loaves for ${loaf} each, but the last {half} loaves for "
        f"half the price. Flour and power cost ${cost}. How many dollars does it gain?",
        [f"The rolls bring {rolls} * {roll} = {rolls * roll}.",
         f"{loaves} - {half} = {loaves - half} loaves bring {(loaves - half) * loaf}.",
         f"The last {half} bring {half * loaf // 2}.",
         f"All of it brings {taken}.", f"The gain is {taken} - {cost} = {taken - cost}."],
        taken - cost,
    )  # fmt: skip


TRAIN: Mapping[str, Template] = {
    one.__name__: one for one in (shopping, sharing, working_week, ages, harvest, journey, discount)
}
HELD_OUT: Mapping[str, Template] = {one.__name__: one for one in (library, tank, bakery)}


def problems(templates: Mapping[str, Template], count: int) -> list[Problem]:
    """`count` different problems, from one template after the other; the same ones every time."""
    found: dict[str, Problem] = {}
    names = list(templates)
    number = 0
    while len(found) < count:
        name = names[number % len(names)]
        problem = templates[name](random.Random(f"{name} {number}"))
        found.setdefault(problem.question, problem)
        number += 1
    return list(found.values())
