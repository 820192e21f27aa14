"""Programs made from a reference, and calls made from a schema; nothing of them is run here."""

import ast

import pytest

from environments.nat_agent.inputs import edges
from environments.nat_agent.oracle import wrong_calls
from environments.nat_agent.variants import mutants, relayed, variants
from tests.environments.nat_agent.agents import shout, spec

PLANNED, HIDDEN = spec().plan.custom_tools[1], spec().hidden[1]
REFERENCE = shout('text.upper() + "!"')


def test_the_specifications_own_mutants_come_first():
    found = mutants(PLANNED, HIDDEN, 3)
    assert found[: len(HIDDEN.mutants)] == HIDDEN.mutants
    assert len(set(found)) == 3


def test_variants_differ_from_the_reference_and_from_each_other():
    assert len({HIDDEN.reference, *variants(HIDDEN, 2)}) == 3


def test_a_relayed_program_hands_on_the_changed_value_under_the_same_parameters():
    source = relayed(REFERENCE, "value + '?'")
    assert source is not None
    functions = {one.name: one for one in ast.walk(ast.parse(source)) if isinstance(one, ast.AsyncFunctionDef)}
    relay = functions["run_relayed"]
    assert ast.unparse(relay.args) == ast.unparse(functions["run"].args) == "text: str"
    assert ast.unparse(relay.body[-1]) == "return value + '?'"
    assert "from_fn(run_relayed," in source


def test_a_reference_in_another_pattern_has_only_its_own_mutants():
    hidden = HIDDEN.model_copy(update={"reference": REFERENCE.replace("from_fn(run,", "create(single_fn=run,")})
    assert mutants(PLANNED, hidden, 3) == hidden.mutants


@pytest.mark.parametrize("call", [{}, {"text": ["a", "list"]}])
def test_wrong_calls_leave_an_argument_out_or_change_its_type(call: dict):
    assert call in wrong_calls(PLANNED, {"text": "hi"})


def test_inputs_reach_both_ends_of_their_recipes():
    assert edges(spec().hidden[0].inputs) == [{"value": 1.0}, {"value": 99.0}]
