"""Conversations to ShareGPT and back."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import BadData
from core.types import JsonObject, Message, Role, ToolCall
from environments.sharegpt import Conversation, from_sharegpt, to_sharegpt
from tests.fakes import Sums

TOOLS = Sums().task(2).tools
SYSTEM = Message(role=Role.SYSTEM, content="Be brief.")
USER = Message(role=Role.USER, content="What is 2 + 2?")
CALL = ToolCall(id="c1", name="write", arguments='{"text": "4"}')
ASSISTANT = Message(role=Role.ASSISTANT, content="Easy.", reasoning="2 + 2 = 4", tool_calls=(CALL,))
TOOL = Message(role=Role.TOOL, content="written </tool_response> really", tool_call_id="c1")
WHOLE = Conversation((SYSTEM, USER, ASSISTANT, TOOL, Message(role=Role.ASSISTANT, content="Done.")), TOOLS)


def without_ids(messages: tuple[Message, ...]) -> list[JsonObject]:
    """Messages with ids replaced by their place, which is what ShareGPT keeps of them."""
    places: dict[str, str] = {}
    for message in messages:
        for call in message.tool_calls:
            places[call.id] = str(len(places))
    text = json.dumps([message.model_dump(mode="json") for message in messages])
    for given_id, place in places.items():
        text = text.replace(f'"{given_id}"', f'"{place}"')
    return json.loads(text)


def test_a_conversation_in_sharegpt():
    assert to_sharegpt(Conversation((USER, ASSISTANT, TOOL))) == [
        {"from": "human", "value": "What is 2 + 2?"},
        {
            "from": "gpt",
            "value": "<think>\n2 + 2 = 4\n</think>\n"
            'Easy.\n<tool_call>\n{"name": "write", "arguments": {"text": "4"}}\n</tool_call>',
        },
        {"from": "tool", "value": "<tool_response>\nwritten </tool_response> really\n</tool_response>"},
    ]


def test_the_tools_stand_in_the_system_message():
    first = to_sharegpt(WHOLE)[0]
    assert first["from"] == "system"
    assert first["value"].startswith("Be brief.")
    assert all(json.dumps(tool.to_openai()) in first["value"] for tool in TOOLS)


def test_a_conversation_without_system_message_gets_one_for_its_tools():
    assert [entry["from"] for entry in to_sharegpt(Conversation((USER,), TOOLS))] == ["system", "human"]


@pytest.mark.parametrize("conversation", [WHOLE, Conversation(WHOLE.messages[1:], TOOLS), Conversation(WHOLE.messages)])
def test_a_conversation_comes_back(conversation: Conversation):
    back = from_sharegpt(json.loads(json.dumps(to_sharegpt(conversation))))
    assert without_ids(back.messages) == without_ids(conversation.messages)
    assert back.tools == conversation.tools


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(TEXT, st.lists(st.dictionaries(TEXT, TEXT, max_size=2), max_size=3), st.lists(TEXT, max_size=3))
def test_any_calls_and_answers_come_back(user: str, arguments: list[dict[str, str]], answers: list[str]):
    calls = tuple(ToolCall(id=f"id{n}", name="f", arguments=json.dumps(one)) for n, one in enumerate(arguments))
    told = [Message(role=Role.TOOL, content=text, tool_call_id=call.id) for text, call in zip(answers, calls, strict=False)]
    messages = (Message(role=Role.USER, content=user), Message(role=Role.ASSISTANT, tool_calls=calls), *told)
    assert without_ids(from_sharegpt(to_sharegpt(Conversation(messages))).messages) == without_ids(messages)


@pytest.mark.parametrize("entry", [{"from": "bot", "value": "x"}, {"value": "x"}, {"from": "gpt", "value": None}])
def test_an_entry_that_is_none_is_named(entry: JsonObject):
    with pytest.raises(BadData, match=r"conversations\[1\]"):
        from_sharegpt([{"from": "human", "value": "x"}, entry])


def test_a_broken_list_of_tools_is_named():
    entries = to_sharegpt(WHOLE)
    entries[0]["value"] = entries[0]["value"].replace('{"type": "function"', "{", 1)
    with pytest.raises(BadData, match="a line of <tools> is no tool"):
        from_sharegpt([dict(entry) for entry in entries])
