"""Every tool-call format by name: those of vLLM, SGLang and hermes-agent, each in any spelling (`-`, `_`, `.`).

A row is `name: module:attribute`; the attribute, called without arguments, is the parser: a class, or a grammar with
its data. ALIASES are further names of the same format. Nothing is imported before it is asked for.
"""

from collections.abc import Mapping
from typing import TypeVar

from core.registry import Registry

T = TypeVar("T")

FORMATS: dict[str, str] = {
    "apertus": "tool_call_parsers.json_families:apertus",
    "beam": "tool_call_parsers.channels:Beam",
    "cohere_command": "tool_call_parsers.json_families:cohere_command",
    "deepseek_v3": "tool_call_parsers.sections:DeepSeekV3",
    "deepseek_v31": "tool_call_parsers.sections:DeepSeekV31",
    "deepseek_v32": "tool_call_parsers.dsml_formats:DeepSeekV32",
    "deepseek_v4": "tool_call_parsers.dsml_formats:DeepSeekV4",
    "deepseek_v41": "tool_call_parsers.dsml_formats:DeepSeekV41",
    "dots": "tool_call_parsers.xml_formats:Dots",
    "ernie45": "tool_call_parsers.json_families:ernie45",
    "functiongemma": "tool_call_parsers.gemma:FunctionGemma",
    "gemma4": "tool_call_parsers.gemma:Gemma4",
    "gigachat3": "tool_call_parsers.json_families:gigachat3",
    "gigachat35": "tool_call_parsers.dsml_formats:GigaChat35",
    "glm47": "tool_call_parsers.key_value_formats:Glm47",
    "granite": "tool_call_parsers.json_families:granite",
    "granite_20b_fc": "tool_call_parsers.json_families:granite_20b_fc",
    "hermes": "tool_call_parsers.hermes:HermesParser",
    "hunyuan_a13b": "tool_call_parsers.json_families:hunyuan_a13b",
    "hy_v3": "tool_call_parsers.key_value_formats:HunyuanV3",
    "inkling": "tool_call_parsers.channels:Inkling",
    "internlm": "tool_call_parsers.json_families:internlm",
    "iquest_q1": "tool_call_parsers.key_value_formats:IQuestQ1",
    "jamba": "tool_call_parsers.json_families:jamba",
    "k2_horizon": "tool_call_parsers.key_value_formats:K2Horizon",
    "kimi_k2": "tool_call_parsers.sections:KimiK2",
    "kimi_k3": "tool_call_parsers.kimi_k3:KimiK3",
    "lfm2": "tool_call_parsers.pythonic:Lfm2",
    "llama3_json": "tool_call_parsers.bare_json:Llama",
    "longcat": "tool_call_parsers.json_families:longcat",
    "mimo": "tool_call_parsers.xml_formats:MiMo",
    "minicpm5": "tool_call_parsers.xml_formats:MiniCpm5",
    "minimax_m2": "tool_call_parsers.xml_formats:MiniMaxM2",
    "minimax_m3": "tool_call_parsers.nested_elements:MiniMaxM3",
    "mistral": "tool_call_parsers.mistral:Mistral",
    "muse": "tool_call_parsers.channels:Muse",
    "muse_glimmer": "tool_call_parsers.channels:MuseGlimmer",
    "nemotron_v3": "tool_call_parsers.xml_formats:ThinkingQwen3Coder",
    "olmo3": "tool_call_parsers.pythonic:Olmo3",
    "openai": "tool_call_parsers.harmony:Harmony",
    "phi4_mini_json": "tool_call_parsers.json_families:phi4_mini_json",
    "plamo3": "tool_call_parsers.sections:Plamo3",
    "pythonic": "tool_call_parsers.pythonic:Pythonic",
    "qwen3_coder": "tool_call_parsers.xml_formats:Qwen3Coder",
    "response_template": "tool_call_parsers.response_template:ResponseTemplateFormat",
    "seed_oss": "tool_call_parsers.xml_formats:SeedOss",
    "step3": "tool_call_parsers.xml_formats:Step3",
    "xlam": "tool_call_parsers.bare_json:XLam",
}

ALIASES: dict[str, str] = {
    **dict.fromkeys(("qwen", "qwen25", "qwen3_json", "granite4", "trinity"), "hermes"),
    **dict.fromkeys(("cohere_command3", "cohere_command4"), "cohere_command"),
    "apertus2509": "apertus",
    "interns1": "internlm",
    **dict.fromkeys(("llama3", "llama4_json"), "llama3_json"),
    "deepseekv3": "deepseek_v3",
    **dict.fromkeys(("deepseekv31", "deepseek_v3_1"), "deepseek_v31"),
    "deepseekv32": "deepseek_v32",
    "deepseekv4": "deepseek_v4",
    "deepseekv41": "deepseek_v41",
    **dict.fromkeys(("glm", "glm45", "ling3", "poolside_v1", "spark25"), "glm47"),
    **dict.fromkeys(("hunyuan", "hy_v4"), "hy_v3"),
    **dict.fromkeys(("qwen3_xml", "nanbeige"), "qwen3_coder"),
    **dict.fromkeys(("granite_thinking", "step3p5", "step5"), "nemotron_v3"),
    "musespark1x": "muse",
    "gpt_oss": "openai",
    "llama4_pythonic": "pythonic",
    "hf": "response_template",
}
"""Further name -> name of the format."""


class FormatRegistry(Registry[T]):
    """A registry whose names are known in any spelling and by their aliases."""

    def __init__(self, kind: str, table: Mapping[str, str], aliases: Mapping[str, str] | None = None) -> None:
        self.aliases = dict(ALIASES if aliases is None else aliases)
        super().__init__(kind, table)

    @property
    def names(self) -> tuple[str, ...]:
        """All names, aliases included, sorted."""
        return tuple(sorted({*self.table, *self.aliases}))

    def load(self, name: str) -> T:
        """The format of that name, imported now; see Registry.load."""
        return super().load(name if ":" in name else self.formal_name(name))

    def formal_name(self, name: str) -> str:
        """The name of the format in the table; the name as it was given where it is not known."""
        spelled = spelling(name)
        known = {spelling(one): target for one, target in ({one: one for one in self.table} | self.aliases).items()}
        return known.get(spelled, name)


def spelling(name: str) -> str:
    """What all spellings of a name have in common."""
    return name.lower().replace("-", "_").replace(".", "_")
