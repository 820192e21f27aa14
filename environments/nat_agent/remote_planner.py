"""A plan from a model, through any OpenAI-compatible server.

The model is asked for a plan by its JSON schema. What comes back is checked, and what is wrong with it goes back to the
model, a bounded number of times. Nothing that a model wrote is used before it is a valid AgentPlan.
"""

import json
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, SecretStr, ValidationError, field_validator

from core.clock import Clock
from core.config import Config
from core.errors import BadData, ConfigError, PolicyError
from core.logs import get_logger
from core.types import JsonObject
from environments.completion_client import LOOPBACK, CompletionClient, Refused
from environments.nat_agent.conversation import FOLDER
from environments.nat_agent.mcp_registry import servers
from environments.nat_agent.plan import AgentPlan
from environments.nat_agent.plan_rules import EXISTING_TOOLS, plan_problems
from environments.nat_agent.sources import config_source
from environments.policy import PolicyConfig, PolicyKind

log = get_logger("nat_agent.planner")

GEMINI = "https://generativelanguage.googleapis.com/v1beta/openai"
"""Gemini's OpenAI-compatible endpoint."""
MAX_ANSWER, MAX_PROBLEM, MAX_PROBLEMS = 200_000, 300, 8
FENCED = re.compile(r"\A\s*```(?:json)?\s*\n(.*)\n\s*```\s*\Z", re.DOTALL)
UNSUPPORTED = frozenset({400, 404, 415, 422})
"""What servers say to a response format that they do not know."""


class InvalidPlan(BadData):
    """A model's plan that is still not valid after its last repair; names the first field that is wrong."""


class PlannerConfig(Config):
    """Which model plans, and how often it may try. The key is a setting of its own and never part of this."""

    base_url: str = Field(default=GEMINI, pattern="^https?://")
    model: str = "gemini-2.5-pro"
    temperature: float = Field(default=0.2, ge=0)
    max_tokens: int = Field(default=16_384, gt=0)
    """Of one answer, what the model thinks included."""
    timeout_seconds: float = Field(default=180.0, gt=0)
    attempts: int = Field(default=4, gt=0)
    """At one request, where the server is busy or does not answer."""
    repairs: int = Field(default=3, ge=0)
    """How often a plan that is not valid goes back to the model."""

    @field_validator("base_url")
    @classmethod
    def _keeps_the_key_to_itself(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.query or parts.fragment or parts.username or parts.password:
            raise ValueError("holds a query or a user; a key belongs into NATGYM_OPENAI_API_KEY, never into an address")
        if parts.scheme == "http" and parts.hostname not in LOOPBACK:
            raise ValueError(f"would send plans and keys to {parts.hostname} in clear text; use https://")
        return url


class RemotePlanner:
    """Asks one model for plans. Closed by `aclose`, or as a context manager."""

    def __init__(self, config: PlannerConfig, api_key: SecretStr | None = None, clock: Clock | None = None) -> None:
        if api_key is None and urlsplit(config.base_url).hostname not in LOOPBACK:
            raise ConfigError(f"planner {config.base_url} wants a key: set NATGYM_OPENAI_API_KEY in the environment or in .env")
        policy = PolicyConfig(
            kind=PolicyKind.SERVER,
            base_url=config.base_url,
            model=config.model,
            timeout_seconds=config.timeout_seconds,
            attempts=config.attempts,
        )
        self._config, self._client = config, CompletionClient(policy, api_key, clock)
        # an address that already has a path says where the API is; a bare one is that of a server with /v1
        self._path = "/chat/completions" if urlsplit(self._client.root).path else "/v1/chat/completions"
        self._formats: list[JsonObject] = [_by_schema(), {"type": "json_object"}, {}]

    async def __aenter__(self) -> "RemotePlanner":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._client.aclose()

    async def plan(self, request: str) -> AgentPlan:
        """A valid plan for a request in words.

        Raises InvalidPlan naming the field where the last answer is none, PolicyError where the server does not answer.
        """
        conversation: list[JsonValue] = [_message("system", instructions()), _message("user", request)]
        problems: list[str] = []
        for attempt in range(self._config.repairs + 1):
            text, cut = await self._ask(conversation)
            plan, problems = read_plan(text, request)
            if plan is not None:
                return plan
            problems = [f"the answer was cut off after {self._config.max_tokens} tokens", *problems] if cut else problems
            log.warning("plan_refused", attempt=attempt + 1, problem=problems[0])
            conversation += [_message("assistant", text[:MAX_ANSWER]), _message("user", _complaint(problems))]
        raise InvalidPlan(f"{self._config.model}: no valid plan after {self._config.repairs} repairs: {problems[0]}")

    async def _ask(self, conversation: list[JsonValue]) -> tuple[str, bool]:
        """What the model says, and whether it was cut off. A response format that the server does not know is dropped."""
        body: JsonObject = {
            "model": self._config.model,
            "messages": conversation,
            "temperature": self._config.temperature,
            "max_tokens": self._config.max_tokens,
        }
        while True:
            form = self._formats[0]
            try:
                return await self._client.post(self._path, {**body, "response_format": form} if form else body, _said)
            except Refused as refused:
                if refused.status not in UNSUPPORTED or len(self._formats) == 1:
                    raise
                log.warning("response_format_refused", form=str(form.get("type")), status=refused.status)
                self._formats.pop(0)


def instructions() -> str:
    """The system prompt of the planner: what a plan is, what exists, and the schema."""
    known = "\n".join(
        f"- {server.name} (package {server.package}; {', '.join(server.categories)}): "
        + ", ".join(f"{tool.name}({', '.join(_parameters(tool.input_schema))})" for tool in server.tools)
        for server in servers()
    )
    text = (FOLDER / "planner.md").read_text(encoding="utf-8").strip()
    schema = json.dumps(AgentPlan.model_json_schema())
    return text.replace("{servers}", known).replace("{existing}", ", ".join(EXISTING_TOOLS)).replace("{schema}", schema)


def read_plan(text: str, request: str) -> tuple[AgentPlan | None, list[str]]:
    """The plan that a model's answer holds, or what is wrong with it, each with its field."""
    if len(text) > MAX_ANSWER:
        return None, [f"the answer is longer than {MAX_ANSWER} characters"]
    fenced = FENCED.match(text)
    try:
        found = json.loads(fenced.group(1) if fenced else text)
        if not isinstance(found, dict):
            return None, [f"plan: expected one JSON object, found {type(found).__name__}"]
        plan = AgentPlan.model_validate({**found, "user_request": request})
    except ValidationError as error:
        return None, list(_fields(error))
    except (ValueError, RecursionError) as error:
        return None, [f"plan: not JSON: {str(error)[:MAX_PROBLEM]}"]
    problems = plan_problems(plan)
    return (None, problems[:MAX_PROBLEMS]) if problems else (plan.model_copy(update=_template(plan)), [])


def _template(plan: AgentPlan) -> dict[str, str]:
    """The configuration is written here: what the model wrote in its place was never built by NAT."""
    return {"yaml_config_template": config_source(plan)}


def _fields(error: ValidationError) -> Iterable[str]:
    for one in error.errors(include_url=False, include_input=False)[:MAX_PROBLEMS]:
        where = ".".join(str(part) for part in one["loc"])
        yield f"{where or 'plan'}: {one['msg'].removeprefix('Value error, ')}"[:MAX_PROBLEM]


def _message(role: str, content: str) -> JsonObject:
    return {"role": role, "content": content}


def _complaint(problems: Iterable[str]) -> str:
    listed = "\n".join(f"- {problem}" for problem in problems)
    return f"That is not a valid plan:\n{listed}\nAnswer with the whole plan again, as one JSON object and nothing else."


def _said(answer: JsonObject) -> tuple[str, bool]:
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise PolicyError(f"chat/completions: the answer has no choices: {str(answer)[:200]}")
    content = message.get("content")
    return content if isinstance(content, str) else "", choice.get("finish_reason") == "length"


def _parameters(schema: JsonObject) -> list[str]:
    properties = schema.get("properties")
    return list(properties) if isinstance(properties, dict) else []


def _by_schema() -> JsonObject:
    schema = inlined(AgentPlan.model_json_schema())
    return {"type": "json_schema", "json_schema": {"name": "agent_plan", "schema": schema}}


def inlined(schema: JsonObject) -> JsonObject:
    """A schema without references: not every server follows them."""
    definitions = schema.get("$defs")
    known = definitions if isinstance(definitions, dict) else {}

    def resolved(value: JsonValue) -> JsonValue:
        if isinstance(value, list):
            return [resolved(item) for item in value]
        if not isinstance(value, dict):
            return value
        target = value.get("$ref")
        if isinstance(target, str):
            return resolved(known.get(target.rpartition("/")[2], {}))
        return {key: resolved(item) for key, item in value.items() if key != "$defs"}

    found = resolved(schema)
    assert isinstance(found, dict)
    return found
