"""Calls as a policy writes them: what gold answers and wrong answers are made of."""

import json

from pydantic import JsonValue


def as_call(name: str, **arguments: JsonValue) -> str:
    """A tool call in the format `hermes`."""
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments}, ensure_ascii=False)}\n</tool_call>"
