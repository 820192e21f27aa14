"""Hidden tests reach their verdict where the policy's code is not; only plain values come across."""

from collections.abc import Mapping

import pytest

from core.errors import RewardError
from environments.swe.inside.plain import NotPlain, decode, encode
from environments.swe.repair import Repair, is_source
from environments.swe.trial import Verdict, hidden_tests
from tests.environments.sandboxes import any_backend

TESTS = """
import unittest
from shop import price
import shop.tax

class TestShop(unittest.TestCase):
    def test_values(self):
        self.assertEqual(price.of(["pen"], count=2), {"pen": (2, 3.5, b"x", {1})})
    def test_constant(self):
        self.assertEqual(shop.tax.RATE, 19)
    def test_raises(self):
        with self.assertRaises(KeyError):
            price.of(["cup"])
    def test_own_error(self):
        with self.assertRaisesRegex(Exception, "OutOfStock: no"):
            price.out()
"""
PRICE = """
class OutOfStock(Exception):
    pass

def of(names, count=1):
    print("printing disturbs nobody")
    return {name: ({"pen": count}[name], 3.5, b"x", {1}) for name in names}

def out():
    raise OutOfStock("no")
"""
RIGHT = {"shop/__init__.py": "", "shop/price.py": PRICE, "shop/tax.py": "RATE = 19\n"}
REPAIR = Repair(name="shop", statement="", files=RIGHT, hidden={"test_shop.py": TESTS}, fixed=RIGHT)


async def verdict(files: Mapping[str, str], repair: Repair = REPAIR) -> Verdict:
    async with any_backend() as backend:
        return await hidden_tests(backend, repair, files)


async def test_values_constants_and_exceptions_come_across():
    found = await verdict(RIGHT)
    assert (found.passed, found.total, found.solved) == (4, 4, True)


@pytest.mark.parametrize(
    ("files", "passed"),
    [
        ({**RIGHT, "shop/tax.py": "RATE = 18\n"}, 3),
        ({**RIGHT, "shop/tax.py": "this is no Python\n"}, 3),
        ({**RIGHT, "shop/tax.py": "class R(int):\n    __eq__ = lambda *a: True\nRATE = R(1)\n"}, 3),
        ({**RIGHT, "shop/price.py": "import os\nos._exit(0)\n"}, 1),
        ({**RIGHT, "shop/price.py": "import sys\nsys.exit(0)\n"}, 1),
        ({**RIGHT, "shop/price.py": "def of(*a, **k): return [[]] * 10 ** 7\ndef out(): return '9' * 5_000_000\n"}, 1),
        ({**RIGHT, "unittest.py": "raise SystemExit", "json.py": "1 / 0", "sitecustomize.py": "1 / 0"}, 4),
        ({}, 0),
    ],
    ids=["wrong value", "no Python", "equals all", "exits hard", "exits", "answers too long", "shadows", "nothing"],
)
async def test_what_is_wrong_is_counted_and_breaks_nothing_else(files: dict[str, str], passed: int):
    found = await verdict(files)
    # without the module that it imports first, the whole file is one test that failed
    assert (found.passed, found.total, found.solved) == (passed, 4 if files else 1, passed == 4)


async def test_tests_that_are_broken_themselves_are_no_verdict_on_the_policy():
    broken = REPAIR.model_copy(update={"hidden": {"test_shop.py": "import os\nos._exit(3)\n"}})
    with pytest.raises(RewardError, match="ended without a verdict"):
        await verdict(RIGHT, broken)


PLAIN = [None, True, -(10**30), 1.5, float("inf"), "a\n", b"\0", [1, (2, {3})], {(1, 2): [None]}, {}, 1j]
NEVER_ENCODED = [1, 1.5, {}, [], ["int"], ["int", 3], ["nothing", "1"], ["list", "ab"], ["int", "x"], ["dict", [[1]]]]


@pytest.mark.parametrize("value", PLAIN)
def test_plain_values_come_back_as_they_were(value: object):
    found = decode(encode(value))
    assert (found, type(found)) == (value, type(value))


def test_what_only_claims_to_be_plain_is_refused():
    class Liar(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    for value in (Liar(1), [Liar(1)], {"a": Liar(1)}, object(), encode):
        with pytest.raises(NotPlain):
            encode(value)


@pytest.mark.parametrize("found", NEVER_ENCODED)
def test_what_was_never_encoded_is_refused(found: object):
    with pytest.raises((ValueError, TypeError)):
        decode(found)


def test_sources_are_python_that_is_no_test():
    assert [path for path in ("a.py", "a/b.py", "tests/c.py", "test_d.py", "e_test.py", ".git/f.py", "conftest.py", "g.txt")
            if is_source(path)] == ["a.py", "a/b.py"]  # fmt: skip
