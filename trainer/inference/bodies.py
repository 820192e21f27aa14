"""What clients may send: the bodies of the endpoints that sample or encode, and what they mean to an engine.

Keys that change nothing here (`metadata`, `store`) are passed over. Keys that ask for something that is not done are
refused, so that nobody gets samples of another distribution than the one asked for.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from core.errors import UnknownName, UserError
from core.types import JsonObject, Message, Role, TokenIds, ToolCall, ToolSpec
from trainer.inference.base import GenerationRequest, SamplingParams, TokenConstraint

UNSUPPORTED: dict[str, JsonValue] = {
    "best_of": 1,
    "echo": False,
    "frequency_penalty": 0,
    "function_call": None,
    "functions": [],
    "guided_json": None,
    "guided_regex": None,
    "json_schema": None,
    "logit_bias": {},
    "min_new_tokens": 0,
    "min_tokens": 0,
    "presence_penalty": 0,
    "prompt_logprobs": None,
    "regex": None,
    "repetition_penalty": 1,
    "response_format": {"type": "text"},
    "suffix": "",
    "top_logprobs": 0,
}
"""What is not done, with the value that asks for nothing; null does neither."""
MAX_CHOICES = 128

Count = Annotated[int, Field(gt=0)]
Choices = Annotated[int, Field(ge=1, le=MAX_CHOICES)]


class Body(BaseModel):
    """Base of all bodies: immutable, foreign keys passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class StreamOptions(Body):
    include_usage: bool = False


class Asked(Body):
    """Base of the bodies that say how to sample."""

    @model_validator(mode="before")
    @classmethod
    def _only_what_is_done(cls, data: JsonObject) -> JsonObject:
        for name, nothing in UNSUPPORTED.items():
            if data.get(name) not in (None, nothing):
                raise ValueError(f"{name} is not supported by this server")
        return data


class SamplingBody(Asked):
    """What chat and text completions share."""

    model: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    max_tokens: Count | None = None
    n: Choices | None = None
    stop: str | tuple[str, ...] | None = None
    stop_token_ids: TokenIds = ()
    ignore_eos: bool = False
    seed: int | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    return_token_ids: bool = False
    session_id: str | None = None
    user: str | None = None

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def params(self, max_tokens: int, eos_ids: Sequence[int]) -> SamplingParams:
        """How to sample; raises ValidationError for a value out of range."""
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(0, self.top_k or 0),  # vLLM and SGLang write -1 for the whole vocabulary
            min_p=self.min_p or 0.0,
            stop_token_ids=(*self.stop_token_ids, *(() if self.ignore_eos else eos_ids)),
            stop=_stop_texts(self.stop),
            seed=self.seed,
        )


class TextPart(Body):
    type: Literal["text"]
    text: str


class FunctionCall(Body):
    name: str
    arguments: str


class CallBody(Body):
    id: str = ""
    function: FunctionCall


class MessageBody(Body):
    """A message of a chat, as OpenAI's clients write it."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | tuple[TextPart, ...] | None = None
    reasoning_content: str | None = None
    tool_calls: tuple[CallBody, ...] | None = None
    tool_call_id: str | None = None

    def message(self) -> Message:
        """The same in natgym's words."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content or ())
        return Message(
            role=Role.SYSTEM if self.role == "developer" else Role(self.role),
            content=text,
            reasoning=self.reasoning_content,
            tool_calls=tuple(
                ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments)
                for call in self.tool_calls or ()
            ),
            tool_call_id=self.tool_call_id,
        )


class FunctionBody(Body):
    name: str
    description: str = ""
    strict: bool | None = None
    parameters: JsonObject = Field(default_factory=lambda: {"type": "object", "properties": {}})


class ToolBody(Body):
    type: Literal["function"] = "function"
    function: FunctionBody

    def spec(self) -> ToolSpec:
        """The same in natgym's words."""
        function = self.function
        return ToolSpec(name=function.name, description=function.description, parameters=function.parameters)


class NamedFunction(Body):
    name: str


class NamedTool(Body):
    """The one tool that must be called."""

    type: Literal["function"] = "function"
    function: NamedFunction


class ChatBody(SamplingBody):
    """POST /v1/chat/completions."""

    messages: tuple[MessageBody, ...] = Field(min_length=1)
    tools: tuple[ToolBody, ...] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None

    @property
    def offered(self) -> tuple[ToolSpec, ...]:
        """The tools that the model may call in this turn."""
        return () if self.tool_choice == "none" else tuple(tool.spec() for tool in self.tools or ())

    @property
    def demanded(self) -> tuple[FunctionBody, ...]:
        """The tools that the choice leaves. Raises UnknownName for one that was not offered, UserError where none was."""
        functions = tuple(tool.function for tool in self.tools or ())
        if isinstance(self.tool_choice, NamedTool):
            name = self.tool_choice.function.name
            functions, offered = tuple(one for one in functions if one.name == name), functions
            if not functions:
                raise UnknownName("tool", name, [one.name for one in offered])
        elif self.tool_choice == "required" and not functions:
            raise UserError("tool_choice 'required' needs tools")
        return functions

    @property
    def must_call(self) -> bool:
        """Whether the turn must contain a call."""
        return self.tool_choice == "required" or isinstance(self.tool_choice, NamedTool)


class CompletionBody(SamplingBody):
    """POST /v1/completions; `prompt` is text or token ids, one or several."""

    prompt: str | TokenIds | tuple[str, ...] | tuple[TokenIds, ...]
    logprobs: Annotated[int, Field(ge=0, le=1)] | None = None

    @property
    def prompts(self) -> tuple[str | TokenIds, ...]:
        """One entry a prompt."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return (prompt,)
        if prompt and isinstance(prompt[0], int):
            return (tuple(token for token in prompt if isinstance(token, int)),)
        return tuple(one for one in prompt if not isinstance(one, int))


class GenerateParams(Asked):
    """`sampling_params` of POST /generate."""

    max_new_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    n: Choices = 1
    stop: str | tuple[str, ...] | None = None
    stop_token_ids: TokenIds | None = None
    ignore_eos: bool = False
    sampling_seed: int | None = None


class GenerateBody(Asked):
    """POST /generate, in the shape of SGLang's."""

    input_ids: TokenIds | None = None
    text: str | None = None
    sampling_params: GenerateParams = GenerateParams()
    return_logprob: bool = False
    stream: Literal[False] = False
    session_id: str | None = None
    user: str | None = None

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        if (self.input_ids is None) == (self.text is None):
            raise ValueError("give input_ids or text, one of the two")
        return self

    def params(self, eos_ids: Sequence[int]) -> SamplingParams:
        """How to sample; raises ValidationError for a value out of range."""
        given = self.sampling_params
        return SamplingParams(
            max_tokens=given.max_new_tokens,
            temperature=given.temperature,
            top_p=given.top_p,
            top_k=max(0, given.top_k),
            min_p=given.min_p,
            stop_token_ids=(*(given.stop_token_ids or ()), *(() if given.ignore_eos else eos_ids)),
            stop=_stop_texts(given.stop),
            seed=given.sampling_seed,
        )


class IdPrompt(Body):
    """A prompt as vLLM's clients write it: token ids, never encoded again."""

    prompt_token_ids: TokenIds


class TextPrompt(Body):
    """The same, as text."""

    prompt: str


class PromptBody(SamplingBody):
    """POST /generate, in the shape of vLLM's; it is told from SGLang's by its `prompt`."""

    prompt: IdPrompt | TextPrompt | str
    logprobs: Annotated[int, Field(ge=0, le=1)] | None = None


class TokenizeBody(Body):
    """POST /tokenize: a text, or a conversation through the chat template."""

    model: str | None = None
    prompt: str | None = None
    messages: tuple[MessageBody, ...] | None = Field(default=None, min_length=1)
    tools: tuple[ToolBody, ...] | None = None
    add_generation_prompt: bool = True

    @model_validator(mode="after")
    def _one_text(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give prompt or messages, one of the two")
        return self


class DetokenizeBody(Body):
    """POST /detokenize."""

    model: str | None = None
    tokens: TokenIds


def requests_of(
    prompt_ids: TokenIds,
    params: SamplingParams,
    choices: int,
    body: SamplingBody | GenerateBody,
    constraint: Callable[[], TokenConstraint] | None = None,
) -> list[GenerationRequest]:
    """One request a choice; with a seed, choice i draws from seed + i."""
    return [
        GenerationRequest(
            prompt_ids=prompt_ids,
            params=params if params.seed is None else params.model_copy(update={"seed": params.seed + index}),
            session_id=body.session_id,
            client=body.user,
            constraint=constraint,
        )
        for index in range(choices)
    ]


def _stop_texts(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    texts = (stop,) if isinstance(stop, str) else tuple(stop or ())
    return tuple(text for text in texts if text)
