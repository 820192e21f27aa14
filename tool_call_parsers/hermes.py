"""The format of Hermes, Qwen2.5 and Qwen3: JSON inside `<tool_call>` tags, reasoning inside `<think>` tags.

    <think>why</think>text<tool_call>
    {"name": "write_file", "arguments": {"path": "a.py", "content": "x = 1"}}
    </tool_call>

A block ends where its JSON ends: a tag inside a JSON string is text. Line breaks inside strings are accepted, as are
`parameters` for `arguments`, a list of calls in one block, and a missing close tag after complete JSON.
"""

from tool_call_parsers.json_blocks import JsonBlocks, JsonMarkers


class HermesParser(JsonBlocks):
    """Parser of the hermes format. Holds no state."""

    def __init__(self) -> None:
        super().__init__(JsonMarkers("hermes", ("<tool_call>",), ("</tool_call>",), reasoning="hermes"))
