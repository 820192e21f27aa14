"""Which final answers are the same, and what a hostile one can do."""

from collections.abc import AsyncIterator

import pytest

from environments.rewards.maths import MathVerifier, as_number, final_answer


@pytest.fixture
async def verifier() -> AsyncIterator[MathVerifier]:
    async with MathVerifier() as found:
        yield found


@pytest.fixture
async def with_math_verify(verifier: MathVerifier) -> MathVerifier:
    if not verifier.installed:
        pytest.skip("math-verify is not installed")
    return verifier


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so it is \\boxed{42}.", "42"),
        ("\\boxed{1}, no: \\boxed{\\frac{3}{4}}", "\\frac{3}{4}"),
        ("2 + 2 = 4\n#### 1,234\n", "1,234"),
        ("#### 7\nhm \\boxed{8}", "8"),
        ("\\boxed{42", None),
        ("\\boxed{}", None),
        ("####", None),
        ("it is 42", None),
    ],
)
def test_the_final_answer_is_what_stands_in_the_last_box(text: str, answer: str | None):
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    "text", ["1234", "1,234", "$1,234", "\\$1234.00", "1234 \\text{ apples}", "+1234.", "1234 dollars", "1234\\%"]
)
def test_a_number_is_read_with_and_without_what_stands_around_it(text: str):
    assert as_number(text) == 1234


@pytest.mark.parametrize(
    "text", ["", "42x", "1,23", "42 or 43", "41 42x", "forty", "--42", "1e9999999", "4/2", "٤٢", "1" * 10_000]
)
def test_anything_else_is_no_number(text: str):
    assert as_number(text) is None


@pytest.mark.parametrize(
    ("right", "given", "same"), [("42", "42.0", True), ("42", "43", False), ("x + 1", "x+1", True), ("0.5", ".5", True)]
)
async def test_numbers_and_equal_texts_need_no_other_package(verifier: MathVerifier, right: str, given: str, same: bool):
    verifier.installed = False
    assert await verifier.same(right, given) is same


async def test_without_the_package_what_is_written_otherwise_is_not_the_same(verifier: MathVerifier):
    verifier.installed = False
    assert await verifier.same("0.75", "\\frac{3}{4}") is False


@pytest.mark.parametrize(
    ("right", "given", "same"),
    [
        ("0.75", "\\frac{3}{4}", True),
        ("2\\sqrt{2}", "\\sqrt{8}", True),
        ("42", "\\sqrt{1764}", True),
        ("42", "41, 42", False),
        ("42", "41$ $42", False),
        ("42", "\\{41, 42\\}", False),
        ("42", "\\pm 42", False),
        ("42", "42x", False),
        ("42", "__import__('os')", False),
    ],
)
async def test_formulas_are_compared_by_their_value(with_math_verify: MathVerifier, right: str, given: str, same: bool):
    assert await with_math_verify.same(right, given) is same


async def test_a_formula_that_never_ends_is_wrong_and_the_next_one_is_judged(with_math_verify: MathVerifier):
    assert await with_math_verify.same("42", "9^{9^{9^{9^{9}}}} \\cdot 0 + 42") is False
    assert await with_math_verify.same("42", "\\frac{84}{2}") is True
