"""Small programs, right as they stand, and calls of them: what the generator breaks.

They loop over what is finite and nothing else, so that no bug in them can keep a test busy for ever.
"""

from typing import NamedTuple


class Program(NamedTuple):
    """A module, and calls that show what it does; the first ones become its visible tests."""

    name: str
    source: str
    calls: tuple[str, ...]


def program(name: str, source: str, calls: str) -> Program:
    """A program from its text, and its calls, one a line."""
    return Program(name, source.strip() + "\n", tuple(line.strip() for line in calls.strip().splitlines()))


PRICING = program(
    "pricing",
    '''
"""Prices of orders, in cents."""

def discount(amount, percent=10):
    """The amount less a percentage of it, rounded down."""
    return amount - amount * percent // 100

def shipping(weight, express=False):
    """What sending costs: 500 up to 1000 grams, 900 above; half as much again for express."""
    cost = 500 if weight <= 1000 else 900
    if express:
        cost = cost * 3 // 2
    return cost

def total(prices, weight, member=False):
    """All prices and the shipping; members get the standard discount, and free shipping from 5000 on."""
    amount = sum(prices)
    if member:
        amount = discount(amount)
    if member and amount >= 5000:
        return amount
    return amount + shipping(weight)
''',
    """
discount(1000)
discount(999, 25)
shipping(1000)
shipping(1001)
shipping(300, express=True)
total([1000, 500], 800)
total([6000, 500], 800, member=True)
total([1000], 2000, member=True)
discount(350, 0)
discount(4321)
discount(80, 50)
shipping(999)
shipping(5000, express=True)
total([], 100)
total([4000, 1000], 1000)
total([5556], 4000, member=True)
total([5554], 4000, member=True)
total([5000, 4000], 1500)
""",
)

INTERVALS = program(
    "intervals",
    '''
"""Closed intervals of whole numbers, as pairs (first, last)."""

def merge(intervals, gap=1):
    """Sorted intervals in which those that touch are one; they touch where at most `gap` lies between their ends."""
    merged = []
    for first, last in sorted(intervals):
        if merged and first - merged[-1][1] <= gap:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged

def covers(intervals, number):
    """Whether a number lies in one of them."""
    for first, last in intervals:
        if first <= number and number <= last:
            return True
    return False

def length(intervals):
    """How many numbers they cover together."""
    return sum(last - first + 1 for first, last in merge(intervals))
''',
    """
merge([(5, 7), (1, 3)])
merge([(1, 3), (4, 6)])
merge([(1, 9), (2, 4)])
covers([(1, 3), (8, 9)], 3)
covers([(1, 3), (8, 9)], 5)
covers([(1, 3)], 1)
length([(1, 3), (2, 5)])
length([(4, 4)])
merge([])
merge([(1, 2), (5, 6)])
merge([(1, 2), (5, 6)], 3)
merge([(10, 20), (1, 30), (31, 31)])
covers([], 0)
covers([(2, 4)], 0)
covers([(2, 4)], 4)
length([])
length([(0, 9), (20, 29), (5, 24)])
""",
)

RUNS = program(
    "runs",
    '''
"""Run-length coding of text."""

def encode(text, least=2):
    """Each run of at least `least` equal characters as its length and the character; shorter ones as they are."""
    pieces = []
    start = 0
    for place in range(1, len(text) + 1):
        if place == len(text) or text[place] != text[start]:
            count = place - start
            if count >= least:
                pieces.append(str(count) + text[start])
            else:
                pieces.append(text[start] * count)
            start = place
    return "".join(pieces)

def decode(text):
    """The text that was encoded; it held no digits."""
    pieces = []
    count = 0
    for one in text:
        if one.isdigit():
            count = count * 10 + int(one)
        else:
            pieces.append(one * max(1, count))
            count = 0
    return "".join(pieces)
''',
    """
encode("aaab")
encode("abcc")
encode("aabb", least=3)
decode("3ab")
decode("12x")
decode("abc")
encode("")
encode("a")
encode("zzzzzzzzzzzz")
encode("aabbbcccc", 3)
encode("xyyx")
decode("")
decode("2a10bc")
decode("x3y")
""",
)

GRADES = program(
    "grades",
    '''
"""Marks of a class, from 0 to 100."""

def letter(mark, strict=False):
    """A from 90, B from 75, C from 50, else F; strict marking wants five more for each."""
    if strict:
        mark = mark - 5
    if mark >= 90:
        return "A"
    if mark >= 75:
        return "B"
    if mark >= 50:
        return "C"
    return "F"

def mean(marks, drop=1):
    """The mean without the `drop` lowest marks, rounded to the nearest whole number; 0 where none is left."""
    kept = sorted(marks)[drop:]
    if not kept:
        return 0
    return (2 * sum(kept) + len(kept)) // (2 * len(kept))

def ranking(marks):
    """Names by mark, best first; equal marks by name."""
    return [name for mark, name in sorted((-mark, name) for name, mark in marks.items())]

def passed(marks, least=50):
    """How many marks are at least `least`."""
    return sum(1 for mark in marks if mark >= least)
''',
    """
letter(90)
letter(89)
letter(50)
letter(78, strict=True)
mean([10, 80, 90])
mean([50, 60, 61], 0)
ranking({"b": 70, "a": 70, "c": 90})
passed([49, 50, 51])
letter(75)
letter(74)
letter(49)
letter(94, True)
letter(95, True)
letter(100)
mean([])
mean([40])
mean([1, 2, 3, 4], 2)
mean([70, 71, 73])
ranking({})
ranking({"x": 1, "y": 2, "z": 0})
passed([80, 81], 81)
passed([])
""",
)

STOCK = program(
    "stock",
    '''
"""What a shop has in stock: a dictionary of item -> count."""

def receive(stock, items):
    """The stock after a delivery; items are pairs (name, count), and counts below 1 are ignored."""
    after = dict(stock)
    for name, count in items:
        if count < 1:
            continue
        after[name] = after.get(name, 0) + count
    return after

def sell(stock, name, count=1):
    """The stock after a sale; an item that is sold out is no longer listed. Raises ValueError where there is too little."""
    if stock.get(name, 0) < count:
        raise ValueError("too little of " + name)
    after = dict(stock)
    after[name] = after[name] - count
    if after[name] == 0:
        del after[name]
    return after

def reorder(stock, wanted, pack=6):
    """How many packs to order of each item to have at least what is wanted; items that need none are left out."""
    orders = {}
    for name, count in wanted.items():
        missing = count - stock.get(name, 0)
        if missing > 0:
            orders[name] = (missing + pack - 1) // pack
    return orders
''',
    """
receive({"a": 1}, [("a", 2), ("b", 3)])
receive({}, [("a", 0), ("b", 1)])
sell({"a": 3}, "a")
sell({"a": 1}, "a")
sell({"a": 1}, "a", 2)
reorder({"a": 1}, {"a": 7})
reorder({"a": 9}, {"a": 9, "b": 1})
receive({"x": 5}, [])
receive({"x": 5}, [("x", -2), ("y", 1), ("y", 1)])
sell({"a": 5, "b": 2}, "b", 2)
sell({"a": 5, "b": 2}, "a", 4)
sell({}, "q")
reorder({}, {"a": 6, "b": 12, "c": 13})
reorder({"a": 2}, {"a": 12}, 5)
reorder({"a": 2}, {})
""",
)

TRAIN = (PRICING, INTERVALS, RUNS, GRADES, STOCK)
