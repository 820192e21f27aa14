"""Hidden inputs: arguments drawn from a tool's recipes."""

import random
from collections.abc import Mapping

from pydantic import JsonValue

from core.types import JsonObject
from environments.nat_agent.plan import ArgumentKind, ArgumentRecipe


def draw(recipes: Mapping[str, ArgumentRecipe], chance: random.Random) -> JsonObject:
    """One set of arguments; the same `chance` state gives the same arguments."""
    return {name: _draw_one(recipe, chance) for name, recipe in recipes.items()}


def edges(recipes: Mapping[str, ArgumentRecipe]) -> list[JsonObject]:
    """Arguments at both ends of what the recipes can draw."""
    return [{name: _edge(recipe, high) for name, recipe in recipes.items()} for high in (False, True)]


def _edge(recipe: ArgumentRecipe, high: bool) -> JsonValue:
    end = recipe.high if high else recipe.low
    number: JsonValue = round(end, recipe.digits) if recipe.digits else int(end)
    choice = recipe.choices[-1 if high else 0] if recipe.choices else ""
    count = recipe.length if high else 1
    match recipe.kind:
        case ArgumentKind.INTEGER:
            return int(end)
        case ArgumentKind.NUMBER:
            return number
        case ArgumentKind.CHOICE:
            return choice
        case ArgumentKind.NUMBERS:
            return list[JsonValue]([number] * count)
        case ArgumentKind.TEXT:
            return " ".join([choice] * count)
        case ArgumentKind.WORDS:
            return list[JsonValue]([choice] * count)


def _draw_one(recipe: ArgumentRecipe, chance: random.Random) -> JsonValue:
    match recipe.kind:
        case ArgumentKind.INTEGER:
            return chance.randint(int(recipe.low), int(recipe.high))
        case ArgumentKind.NUMBER:
            return _number(recipe, chance)
        case ArgumentKind.CHOICE:
            return chance.choice(recipe.choices)
        case ArgumentKind.NUMBERS:
            return [_number(recipe, chance) for _ in range(chance.randint(1, recipe.length))]
        case ArgumentKind.TEXT:
            return " ".join(_words(recipe, chance))
        case ArgumentKind.WORDS:
            return list(_words(recipe, chance))


def _number(recipe: ArgumentRecipe, chance: random.Random) -> float | int:
    value = round(chance.uniform(recipe.low, recipe.high), recipe.digits)
    return value if recipe.digits else int(value)


def _words(recipe: ArgumentRecipe, chance: random.Random) -> list[str]:
    return [chance.choice(recipe.choices) for _ in range(chance.randint(1, recipe.length))]
