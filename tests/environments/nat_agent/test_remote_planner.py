"""Plans from a model: over a real socket, from a server that misbehaves as servers and models do."""

import asyncio
import json

import pytest
from pydantic import SecretStr, ValidationError

from core.errors import ConfigError, PolicyError
from core.types import JsonObject
from environments.nat_agent.plan import AgentPlan
from environments.nat_agent.planner import plan_request
from environments.nat_agent.remote_planner import InvalidPlan, PlannerConfig, RemotePlanner, inlined, read_plan
from tests.environments.inference_server import InferenceServer, Reply, chatted, inference_server

REQUEST = "An agent using exa: convert miles to feet."
GOOD = plan_request(REQUEST).plan
KEY = SecretStr("sk-secret")
BUSY = (429, {"retry-after": "0"}, b"slow down")
BROKEN = (500, {"retry-after": "0"}, b"oops")
NO_SCHEMAS = (400, {}, b'{"error": "response_format is not supported"}')


def said(plan: AgentPlan | JsonObject | str, finish: str = "stop") -> JsonObject:
    """A chat completion that says a plan."""
    data = plan.model_dump(mode="json") if isinstance(plan, AgentPlan) else plan
    return chatted({"content": data if isinstance(data, str) else json.dumps(data)}, finish)


def spoilt(**changes: object) -> JsonObject:
    return {**GOOD.model_dump(mode="json"), **changes}


async def planned(server: InferenceServer, path: str = "", **settings: object) -> AgentPlan:
    config = PlannerConfig.model_validate({"base_url": server.url + path, "model": "thinker", **settings})
    async with RemotePlanner(config, KEY) as planner:
        return await planner.plan(REQUEST)


def last_message(server: InferenceServer) -> str:
    messages = server.bodies[-1]["messages"]
    assert isinstance(messages, list)
    return str(messages[-1]["content"])  # type: ignore[index,call-overload]


async def test_a_valid_plan_is_taken_at_once():
    async with inference_server(said(GOOD)) as server:
        assert await planned(server) == GOOD
    assert len(server.bodies) == 1


async def test_the_model_is_asked_by_the_schema_of_a_plan():
    async with inference_server(said(GOOD)) as server:
        await planned(server)
    form = server.bodies[0]["response_format"]
    assert form["type"] == "json_schema"
    assert form["json_schema"]["schema"]["required"] == ["user_request", "scaffold_type", "custom_tools"]
    assert "$ref" not in json.dumps(form)


async def test_the_key_is_a_header_and_in_no_address():
    async with inference_server(said(GOOD)) as server:
        await planned(server)
    assert server.headers[0]["authorization"] == "Bearer sk-secret"
    assert "sk-secret" not in "".join(server.paths) + json.dumps(server.bodies)


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("", "/v1/chat/completions"),
        ("/v1", "/v1/chat/completions"),
        ("/v1beta/openai", "/v1beta/openai/chat/completions"),
        ("/v1beta/openai/", "/v1beta/openai/chat/completions"),
    ],
)
async def test_the_api_is_found_behind_any_address(path: str, asked: str):
    async with inference_server(said(GOOD)) as server:
        await planned(server, path)
    assert server.paths == [asked]


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ('{"user_request": ', "plan: not JSON"),
        ("[" * 100_000, "plan: not JSON"),
        ("[1]", "plan: expected one JSON object, found list"),
        ("", "plan: not JSON"),
        (spoilt(scaffold_type="dream_agent"), "scaffold_type: Input should be"),
        (spoilt(custom_tools=[]), "custom_tools: Tuple should have at least 1 item"),
        (spoilt(mcp_servers=[{"name": "exb", "package": "exb", "tools": ["x"]}]), "mcp_servers.0: no server 'exb'"),
        (spoilt(test_cases=[]), "test_cases: none for custom_tools.0"),
        (spoilt(llm="mistral"), "llm: Extra inputs are not permitted"),
    ],
)
async def test_what_is_wrong_with_a_plan_goes_back_to_the_model(answer: JsonObject | str, complaint: str):
    async with inference_server(said(answer), said(GOOD)) as server:
        assert await planned(server) == GOOD
    assert complaint in last_message(server)


async def test_an_answer_that_was_cut_off_is_told_so():
    async with inference_server(said('{"user', finish="length"), said(GOOD)) as server:
        await planned(server, max_tokens=99)
    assert "cut off after 99 tokens" in last_message(server)


async def test_repairs_are_bounded_and_the_field_is_named():
    async with inference_server(*[said(spoilt(scaffold_type="x"))] * 5) as server:
        with pytest.raises(InvalidPlan, match="no valid plan after 2 repairs: scaffold_type: Input should be"):
            await planned(server, repairs=2)
    assert len(server.bodies) == 3


async def test_a_fence_round_the_plan_is_dropped():
    async with inference_server(said(f"```json\n{GOOD.model_dump_json()}\n```\n")) as server:
        assert await planned(server) == GOOD


async def test_the_request_stays_in_the_users_words():
    async with inference_server(said(spoilt(user_request="something else"))) as server:
        assert (await planned(server)).user_request == REQUEST


async def test_a_configuration_that_the_model_wrote_is_not_taken():
    async with inference_server(said(spoilt(yaml_config_template="agent: {type: react}"))) as server:
        assert (await planned(server)).yaml_config_template == GOOD.yaml_config_template


@pytest.mark.parametrize("trouble", [BUSY, BROKEN], ids=["429", "500"])
async def test_a_busy_server_is_asked_again(trouble: Reply):
    async with inference_server(trouble, trouble, said(GOOD)) as server:
        assert await planned(server) == GOOD


async def test_a_server_that_stays_busy_is_given_up():
    async with inference_server(*[BUSY] * 3) as server:
        with pytest.raises(PolicyError, match="no answer after 3 attempts: status 429"):
            await planned(server, attempts=3)


async def test_a_server_that_never_answers_is_given_up():
    held: list[asyncio.StreamWriter] = []

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)

    async with await asyncio.start_server(hold, "127.0.0.1", 0) as mute:
        url = f"http://127.0.0.1:{mute.sockets[0].getsockname()[1]}"
        with pytest.raises(PolicyError, match="no answer in time"):
            await planned(InferenceServer(url, []), timeout_seconds=0.05)
        for writer in held:
            writer.close()


async def test_a_server_without_schemas_is_asked_for_json_and_then_for_text():
    async with inference_server(NO_SCHEMAS, NO_SCHEMAS, said("{"), said(GOOD)) as server:
        assert await planned(server) == GOOD
    kinds = [body.get("response_format", {}).get("type") for body in server.bodies]
    assert kinds == ["json_schema", "json_object", None, None]


async def test_a_key_that_is_refused_is_not_tried_again():
    async with inference_server((401, {}, b"bad key")) as server:
        with pytest.raises(PolicyError, match="status 401"):
            await planned(server)


async def test_an_answer_without_choices_is_told():
    async with inference_server({"error": "quota"}) as server:
        with pytest.raises(PolicyError, match="no choices"):
            await planned(server)


@pytest.mark.parametrize("url", ["https://a.example/v1?key=x", "https://me:pw@a.example/v1", "http://a.example/v1", "ftp://a"])
def test_an_address_that_gives_the_key_away_is_refused(url: str):
    with pytest.raises(ValidationError):
        PlannerConfig(base_url=url)


def test_a_remote_server_without_a_key_says_which_variable_to_set():
    with pytest.raises(ConfigError, match="set NATGYM_OPENAI_API_KEY"):
        RemotePlanner(PlannerConfig())


def test_a_plan_that_is_too_long_is_not_read():
    assert read_plan(" " * 300_000, REQUEST) == (None, ["the answer is longer than 200000 characters"])


def test_references_of_a_schema_are_filled_in():
    schema: JsonObject = {"$defs": {"A": {"type": "string"}}, "items": [{"$ref": "#/$defs/A"}]}
    assert inlined(schema) == {"items": [{"type": "string"}]}
