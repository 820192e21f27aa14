"""Other programs made from a reference: some behave like it, some do not.

A reference is the verifier's own text, so it may be taken apart here; nothing of it runs in this process. The pattern
that is recognised is the one that NAT teaches: an async function handed to `FunctionInfo.from_fn`.
"""

import ast
from collections.abc import Mapping

from environments.nat_agent.plan import HiddenTool, PlannedTool

CHANGES: Mapping[str, tuple[str, ...]] = {
    "number": ("value + 1", "-value - 1", "str(value)"),
    "integer": ("value + 1", "-value - 1", "str(value)"),
    "string": ("value + '?'", "'?' + value[1:]", "[value]"),
    "boolean": ("not value", "str(value)", "None"),
    "array": ("[*value, None]", "str(value)", "None"),
    "object": ("{**value, '?': None}", "str(value)", "None"),
}
"""JSON type -> expressions that give another value than `value` for each `value` of that type."""


def mutants(planned: PlannedTool, hidden: HiddenTool, count: int) -> tuple[str, ...]:
    """`count` programs that behave differently: the specification's own first, then the reference with its answers changed.

    Fewer where the reference is not written in the recognised pattern.
    """
    changes = CHANGES.get(str(planned.output_schema.get("type")), ())
    derived = [relayed(hidden.reference, change) for change in changes]
    return (*hidden.mutants, *(source for source in derived if source is not None))[:count]


def variants(hidden: HiddenTool, count: int) -> tuple[str, ...]:
    """`count` programs that behave like the reference and read differently, at most two beside the specification's own."""
    rewritten = f'"""Another way to write it."""\n\n{ast.unparse(ast.parse(hidden.reference))}\n'
    return (*hidden.variants, relayed(hidden.reference, "value") or rewritten, rewritten)[:count]


def relayed(reference: str, change: str) -> str | None:
    """The reference with a function round its own, which returns `change` of the `value` that the inner one returns.

    None where no async function is handed to `FunctionInfo.from_fn` by name.
    """
    tree = ast.parse(reference)
    for outer in (node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)):
        for inner in (node for node in outer.body if isinstance(node, ast.AsyncFunctionDef)):
            if handed := _handed(outer, inner.name):
                outer.body.insert(outer.body.index(inner) + 1, _relay(inner, change))
                for name in handed:
                    name.id = f"{inner.name}_relayed"
                return f"{ast.unparse(ast.fix_missing_locations(tree))}\n"
    return None


def _handed(outer: ast.AST, function: str) -> list[ast.Name]:
    """Where `function` is the first argument of a call of `from_fn`."""
    calls = [node for node in ast.walk(outer) if isinstance(node, ast.Call) and node.args]
    first = [call.args[0] for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "from_fn"]
    return [name for name in first if isinstance(name, ast.Name) and name.id == function]


def _relay(inner: ast.AsyncFunctionDef, change: str) -> ast.AsyncFunctionDef:
    """`async def <inner>_relayed(<the same parameters>)`."""
    given = [*inner.args.posonlyargs, *inner.args.args]
    positional = "".join(f"{one.arg}, " for one in given)
    named = "".join(f"{one.arg}={one.arg}, " for one in inner.args.kwonlyargs)
    source = f"async def {inner.name}_relayed():\n    value = await {inner.name}({positional}{named})\n    return {change}\n"
    (relay,) = ast.parse(source).body
    assert isinstance(relay, ast.AsyncFunctionDef)
    relay.args, relay.returns = inner.args, inner.returns
    return relay
