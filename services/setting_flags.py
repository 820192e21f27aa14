"""`--env.seed -3`: a setting of a run's file as a flag of its own, for `--set env.seed=-3`.

The value is the next argument, or stands behind `=`; a flag without one is true. Numbers below zero, JSON, True and
False, and lists without quotes, `[a,b]`, are read as what they look like; anything else is text.
"""

import json
import re
from collections.abc import Sequence

FLAG = re.compile(r"--(?P<key>[A-Za-z_]\w*(?:\.\w+)+)(?:=(?P<value>.*))?", re.DOTALL)
WORDS = {"True": "true", "False": "false", "None": "null"}


def as_settings(arguments: Sequence[str]) -> list[str]:
    """The same arguments with `--set=section.key=value` for every flag with a dot in its name."""
    told, waiting = list[str](), list(arguments)
    while waiting:
        flag = FLAG.fullmatch(waiting[0])
        argument = waiting.pop(0)
        if argument == "--":
            return [*told, argument, *waiting]
        if flag is None:
            told.append(argument)
            continue
        value = flag["value"]
        if value is None:
            value = waiting.pop(0) if waiting and not waiting[0].startswith("--") else "true"
        told.append(f"--set={flag['key']}={_json(value)}")
    return told


def _json(text: str) -> str:
    """A value as `--set` reads it."""
    if text in WORDS:
        return WORDS[text]
    if not (text.startswith("[") and text.endswith("]")) or _is_json(text):
        return text
    return "[" + ", ".join(_element(part.strip()) for part in text[1:-1].split(",")) + "]"


def _element(text: str) -> str:
    text = WORDS.get(text, text)
    return text if _is_json(text) else json.dumps(text)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
