# ruff: noqa: RUF001 - the bars in these markers are full width
"""Every name of a format, in any spelling, and which format a model speaks."""

import subprocess
import sys
from dataclasses import dataclass

import pytest

from core.errors import UnknownName
from tool_call_parsers.base import PARSERS, ToolCallParser
from tool_call_parsers.detection import for_model
from tool_call_parsers.registry import FORMATS

VLLM = """apertus beam cohere_command3 cohere_command4 deepseek_v3 deepseek_v31 deepseek_v32 deepseek_v4 deepseek_v41 dots
ernie45 functiongemma gemma4 gigachat3 glm45 glm47 granite granite-20b-fc granite4 hermes hf hunyuan_a13b hy_v3 hy_v4 inkling
internlm jamba k2_horizon kimi_k2 kimi_k3 lfm2 ling3 llama3_json llama4_json llama4_pythonic longcat mimo minicpm5 minimax_m2
minimax_m3 mistral muse muse_glimmer musespark1x olmo3 openai phi4_mini_json plamo3 poolside_v1 pythonic qwen3_coder
qwen3_json qwen3_xml seed_oss step3 step3p5 step5 xlam"""
SGLANG = """apertus2509 beam cohere_command4 deepseekv3 deepseekv31 deepseekv32 deepseekv4 deepseekv41 dots glm glm45 glm47
gpt-oss k2_horizon kimi_k2 kimi_k3 lfm2 ling3 llama3 mimo minicpm5 mistral muse poolside_v1 pythonic qwen qwen25 qwen3_coder
spark25 step3 step3p5 minimax-m2 minimax-m3 nanbeige trinity interns1 hermes hunyuan gigachat3 gigachat35 gemma4 inkling
iquest_q1 response_template"""
HERMES_AGENT = """hermes qwen mistral llama3_json llama4_json qwen3_coder deepseek_v3 deepseek_v3_1 deepseek_v31 kimi_k2 longcat
glm45 glm47"""
NAMES = sorted({*VLLM.split(), *SGLANG.split(), *HERMES_AGENT.split()})


@dataclass
class Token:
    content: str


@dataclass
class Tokenizer:
    chat_template: str | dict[str, str] | None = None
    tokens: tuple[str, ...] = ()
    name_or_path: str = "a/model"
    response_template: dict | None = None

    @property
    def added_tokens_decoder(self) -> dict[int, Token]:
        return {number: Token(text) for number, text in enumerate(self.tokens)}


@pytest.mark.parametrize("name", NAMES)
def test_each_name_of_vllm_sglang_and_hermes_agent_is_known(name: str):
    assert PARSERS.formal_name(name) in FORMATS


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"response_template"}))
def test_a_row_is_a_parser(name: str):
    assert isinstance(PARSERS.load(name)(), ToolCallParser)


@pytest.mark.parametrize("spelling", ["deepseek-v3.1", "DeepSeek_V3-1", "deepseekv31", "deepseek_v31"])
def test_spellings_are_one_name(spelling: str):
    assert PARSERS.formal_name(spelling) == "deepseek_v31"


def test_an_unknown_name_says_which_is_near():
    with pytest.raises(UnknownName, match="did you mean 'hermes'"):
        PARSERS.load("hermez")


def test_loading_a_format_loads_no_other_one():
    code = """import sys
from tool_call_parsers.base import PARSERS
PARSERS.load("hermes")()
print("tool_call_parsers.gemma" in sys.modules)"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", "hermes"),
        ("Qwen/Qwen3-8B", "hermes"),
        ("Qwen/Qwen3-Coder-30B-A3B-Instruct", "qwen3_coder"),
        ("Qwen/Qwen3.5-35B-A3B", "qwen3_coder"),
        ("NousResearch/Hermes-4-70B", "hermes"),
        ("mistralai/Devstral-Small-2507", "mistral"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama3_json"),
        ("Salesforce/Llama-xLAM-2-8b-fc-r", "xlam"),
        ("deepseek-ai/DeepSeek-R1-0528", "deepseek_v3"),
        ("deepseek-ai/DeepSeek-V3.1", "deepseek_v31"),
        ("deepseek-ai/DeepSeek-V3.2-Exp", "deepseek_v32"),
        ("moonshotai/Kimi-K2-Instruct", "kimi_k2"),
        ("zai-org/GLM-4.6", "glm47"),
        ("openai/gpt-oss-20b", "openai"),
        ("MiniMaxAI/MiniMax-M2", "minimax_m2"),
        ("google/functiongemma-270m-it", "functiongemma"),
        ("ibm-granite/granite-20b-functioncalling", "granite_20b_fc"),
        ("ibm-granite/granite-3.1-8b-instruct", "granite"),
    ],
)
def test_a_name_shows_the_format(model: str, expected: str):
    assert for_model(model).name == expected


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ('<tool_call>\\n{"name": ', "hermes"),
        ("<tool_call>\\n<function=", "qwen3_coder"),
        ("<tool_call>{{ name }}<arg_key>", "glm47"),
        ("[TOOL_CALLS]", "mistral"),
        ("<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\\n```json", "deepseek_v3"),
        ("<｜tool▁call▁begin｜>f<｜tool▁sep｜>", "deepseek_v31"),
        ("<|START_ACTION|>", "cohere_command"),
        ('<|eot_id|>{"name": f, "parameters": {}}', "llama3_json"),
    ],
)
def test_a_chat_template_shows_the_format(template: str, expected: str):
    assert for_model(Tokenizer(template)).name == expected


def test_a_template_counts_more_than_a_name():
    found = for_model(Tokenizer("<|tools_prefix|>", name_or_path="Qwen/Qwen3-8B"))
    assert found[:2] == ("apertus", "its chat template writes '<|tools_prefix|>'")


def test_the_template_for_tools_is_the_one_that_counts():
    assert for_model(Tokenizer({"default": "[TOOL_CALLS]", "tool_use": "<tool_call>"})).name == "hermes"


def test_special_tokens_show_the_format():
    found = for_model(Tokenizer(tokens=("<s>", "[TOOL_CALLS]")))
    assert found[:2] == ("mistral", "its vocabulary has '[TOOL_CALLS]'")


def test_a_tokenizer_may_describe_its_format_itself():
    assert for_model(Tokenizer(response_template={"fields": {}})).name == "response_template"


def test_an_unknown_model_names_near_formats():
    with pytest.raises(UnknownName, match="did you mean 'mistral'"):
        for_model("mistal")
