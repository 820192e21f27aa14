"""The registry of MCP servers, and what their stand-ins answer."""

import random

import pytest

from core.errors import BadData
from environments.nat_agent.mcp_registry import (
    Category,
    McpServer,
    catalogue,
    find_server,
    find_servers,
    read_server,
    servers,
)
from environments.nat_agent.mcp_stand_in import answer, listing, question, refusal
from environments.nat_agent.schemas import mismatch

TOOLS = [(server, tool) for server in servers() for tool in server.tools]
SECRET, OTHER = b"s" * 16, b"t" * 16


def test_every_category_has_servers():
    assert {category: [one.name for one in find_servers(category)] for category in Category} == {
        Category.FINANCIAL: ["yahoo", "fmp", "stockscreen"],
        Category.RESEARCH: ["exa", "linkup"],
        Category.DATA: ["sheets", "airtable"],
        Category.CODE: ["github", "gitlab"],
    }


def test_a_server_is_found_by_what_it_can_do():
    assert [one.name for one in find_servers(capability="web search")] == ["exa", "linkup"]
    assert [one.name for one in find_servers(Category.CODE, "Pull Requests")] == ["github"]


def test_a_server_is_found_by_name_and_by_package():
    assert find_server("exa") is find_server("exa-mcp-server") is not None
    assert find_server("nobody") is None


@pytest.mark.parametrize("server", servers(), ids=lambda server: server.name)
def test_no_launch_holds_a_key(server: McpServer):
    text = " ".join((server.launch.command or "", *server.launch.args, server.launch.url or ""))
    assert "=" not in text


@pytest.mark.parametrize(("server", "tool"), TOOLS, ids=lambda one: one.name)
def test_a_stand_in_takes_what_a_scenario_asks(server, tool):
    for seed in range(20):
        asked = question(server.package, tool.name, random.Random(seed))
        assert mismatch(asked, tool.input_schema) is None
        assert refusal(server.package, tool.name, asked) is None


@pytest.mark.parametrize(("server", "tool"), TOOLS, ids=lambda one: one.name)
def test_data_belong_to_one_episode_and_one_question(server, tool):
    asked = question(server.package, tool.name, random.Random(1))
    told = answer(SECRET, server.package, tool.name, asked)
    assert told == answer(SECRET, server.package, tool.name, dict(asked))
    assert told != answer(OTHER, server.package, tool.name, asked)
    assert told != answer(SECRET, server.package, tool.name, {**asked, "page": 7})


def test_wrong_arguments_are_refused_with_the_field():
    assert refusal("exa-mcp-server", "web_search_exa", {"query": 3}) == "query: expected string, found '3'"
    assert refusal("exa-mcp-server", "web_search_exa", {}) == "query: is missing"


def test_an_unknown_server_has_tools_of_a_key():
    (listed,) = listing("left-pad", ["pad"])
    assert listed["name"] == "pad"
    assert list(question("left-pad", "pad", random.Random(0))) == ["key"]


def test_a_plan_gets_one_tool_of_each_server_unless_told():
    assert [len(planned.tools) for planned in catalogue()] == [1] * 9


def test_a_broken_entry_is_refused_by_file_and_field(tmp_path):
    (tmp_path / "broken.json").write_text('{"name": "broken"}')
    with pytest.raises(BadData, match=r"broken\.json: .*title"):
        read_server(tmp_path / "broken.json")
