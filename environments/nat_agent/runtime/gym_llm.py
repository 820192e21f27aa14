"""An LLM provider whose every turn is answered by the host, so that script and expectations never enter the sandbox."""

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from nat.builder.framework_enum import LLMFrameworkEnum
from nat.builder.llm import LLMProviderInfo
from nat.cli.register_workflow import register_llm_client, register_llm_provider
from nat.data_models.llm import LLMBaseConfig
from runtime.frames import Channel


class GymLLM(LLMBaseConfig, name="gym_llm"):
    """Answers from the host; takes no settings."""


class Line:
    """Where a workflow's LLM is answered, and which of its runs asks."""

    def __init__(self, channel: Channel) -> None:
        self.channel, self.run = channel, 0

    def ask(self, messages: list[dict], tools: list[dict]) -> dict:
        return self.channel.ask({"llm": {"run": self.run, "messages": messages, "tools": tools}})


_lines: list[Line | None] = [None]


def use_gym_llm(llms: dict, line: Line | None) -> dict[str, GymLLM]:
    """The same names, each answered over `line`."""
    _lines[0] = line
    return {name: GymLLM() for name in llms}


@register_llm_provider(config_type=GymLLM)
async def provide(config: GymLLM, builder):
    yield LLMProviderInfo(config=config, description="answers from the host")


@register_llm_client(config_type=GymLLM, wrapper_type=LLMFrameworkEnum.LANGCHAIN)
async def connect(config: GymLLM, builder):
    yield HostChatModel()


class HostChatModel(BaseChatModel):
    """Sends each conversation to the host and returns what it says."""

    @property
    def _llm_type(self) -> str:
        return "gym_llm"

    def bind_tools(self, tools, **_):
        from langchain_core.utils.function_calling import convert_to_openai_tool

        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools])

    def _generate(self, messages, stop=None, run_manager=None, **options) -> ChatResult:
        line = _lines[0]
        if line is None:
            raise RuntimeError("there is nobody to answer here")
        answer = line.ask([plain(message) for message in messages], options.get("tools", []))
        message = AIMessage(content=answer["content"], tool_calls=answer["tool_calls"])
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _agenerate(self, messages, stop=None, run_manager=None, **options) -> ChatResult:
        return self._generate(messages, stop, **options)


def plain(message: BaseMessage) -> dict:
    content = message.content if isinstance(message.content, str) else str(message.content)
    return {"role": message.type, "content": content}
