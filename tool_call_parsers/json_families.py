"""The families whose calls are JSON between markers of their own: data for one grammar, json_blocks.

Sources: the chat templates of the families, and what vLLM's and SGLang's parsers of these names accept.
"""

import re
from functools import partial

from core.types import ToolCall
from tool_call_parsers.base import CallStatus, MalformedCall
from tool_call_parsers.grammar import Item, Reading, Split
from tool_call_parsers.json_blocks import JsonBlocks, JsonMarkers
from tool_call_parsers.reasoning import Trim
from tool_call_parsers.usual_calls import CallKeys

CITATION = re.compile(r"</?co(?:: [\d:\[\],]+)?>")


class Cohere(JsonBlocks):
    """Command 3 and 4: citations are marked in what is said and thought, and are no part of either.

    A call is reported, not made, where no tool was offered: so do the servers that this family is known from.
    """

    def split(self, text: str, reading: Reading) -> Split:
        """As every block format, without the marks of citations, and without calls where no tool was offered."""
        found = super().split(text, reading)
        return Split(
            found.reasoning and CITATION.sub("", found.reasoning),
            CITATION.sub("", found.content),
            found.items if reading.tools else tuple(map(self._not_offered, found.items)),
        )

    def _not_offered(self, item: Item) -> MalformedCall:
        if isinstance(item, MalformedCall):
            return item
        call = ToolCall(id=self.new_id(), name=item.name, arguments=item.arguments)
        return MalformedCall(text=item.text, status=CallStatus.UNKNOWN_TOOL, problem="no tool was offered", call=call)


TAGS = (("<tool_call>",), ("</tool_call>",))

ernie45 = partial(JsonBlocks, JsonMarkers("ernie45", *TAGS, reasoning="ernie45"))
longcat = partial(JsonBlocks, JsonMarkers("longcat", ("<longcat_tool_call>",), ("</longcat_tool_call>",), reasoning="longcat"))
internlm = partial(
    JsonBlocks,
    JsonMarkers("internlm", ("<|action_start|>",), ("<|action_end|>",), then=("<|plugin|>",), reasoning="think"),
)
granite = partial(
    JsonBlocks,
    JsonMarkers(
        "granite",
        ("<|tool_call|>", "<tool_call>"),
        ("</tool_call>",),
        closer_may_miss=True,
        reasoning="granite",
    ),
)
granite_20b_fc = partial(JsonBlocks, JsonMarkers("granite_20b_fc", ("<function_call>",)))
phi4_mini_json = partial(
    JsonBlocks,
    JsonMarkers("phi4_mini_json", ("functools",), bracket="[", keys=CallKeys(python=True)),
)
jamba = partial(JsonBlocks, JsonMarkers("jamba", ("<tool_calls>",), ("</tool_calls>",), trim=Trim.NONE))
hunyuan_a13b = partial(
    JsonBlocks,
    JsonMarkers(
        "hunyuan_a13b",
        ("<tool_calls>",),
        ("</tool_calls>",),
        reasoning="hunyuan_a13b",
        trim=Trim.NONE,
        text_after_calls=False,
    ),
)
gigachat3 = partial(
    JsonBlocks,
    JsonMarkers(
        "gigachat3",
        ("<|function_call|>", "<|message_sep|>\n\nfunction call<|role_sep|>\n"),
        text_after_calls=False,
    ),
)
apertus = partial(
    JsonBlocks,
    JsonMarkers(
        "apertus",
        ("<|tools_prefix|>",),
        ("<|tools_suffix|>",),
        keys=CallKeys(name_is_key=True),
        reasoning="apertus",
    ),
)
cohere_command = partial(
    Cohere,
    JsonMarkers(
        "cohere_command",
        ("<|START_ACTION|>",),
        ("<|END_ACTION|>",),
        keys=CallKeys(name=("tool_name", "name"), number="tool_call_id"),
        reasoning="cohere",
    ),
)
