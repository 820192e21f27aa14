"""The reasoning formats by name: every one of vLLM's and SGLang's reasoning parsers, in any spelling.

`prompted` stands where the family's template opens the block itself when thinking is on. Sources: the chat
templates of the families and the markers that vLLM's and SGLang's parsers of these names look for.
"""

from core.errors import UnknownName
from tool_call_parsers.reasoning import ReasoningFormat, Trim

HARMONY_FINAL = (
    ("<|start|>assistant<|channel|>final<|message|>", "<|return|>"),
    ("<|channel|>final<|message|>", "<|return|>"),
)
HARMONY_ANALYSIS = ("<|start|>assistant<|channel|>analysis<|message|>", "<|channel|>analysis<|message|>")

FORMATS: dict[str, ReasoningFormat] = {
    one.name: one
    for one in (
        ReasoningFormat("think"),
        ReasoningFormat("think_prompted", prompted=True),
        ReasoningFormat("think_verbatim", trim=Trim.NONE),
        ReasoningFormat("think_appended", kept_in_content=True),
        ReasoningFormat("think_never_empty", prompted=True, swap_when_empty=True),
        ReasoningFormat("think_answer", answer=(("<answer>", "</answer>"),)),
        ReasoningFormat("think_response", prompted=True, answer=(("<response>", "</response>"),)),
        ReasoningFormat("mistral", ("[THINK]", "<think>"), ("[/THINK]", "</think>")),
        ReasoningFormat("seed", ("<seed:think>",), ("</seed:think>",)),
        ReasoningFormat("minimax_m3", ("<mm:think>",), ("</mm:think>",)),
        ReasoningFormat("longcat", ("<longcat_think>",), ("</longcat_think>",)),
        ReasoningFormat(
            "k2_horizon",
            ("<ifm|think>", "<ifm|think_fast>", "<ifm|think_faster>"),
            ("</ifm|think>", "</ifm|think_fast>", "</ifm|think_faster>"),
            prompted=True,
        ),
        ReasoningFormat(
            "muse",
            ("<|start|>assistant to=self<|message|>", "to=self<|message|>"),
            ("<|eom|>",),
            repeats=True,
            answer=(("<|start|>assistant to=user<|message|>", "<|eot|>"), ("<|start|>assistant<|message|>", "<|eot|>")),
        ),
        ReasoningFormat("kimi", ("◁think▷",), ("◁/think▷",)),
        ReasoningFormat(
            "kimi_k3",
            ("<|open|>think<|sep|>",),
            ("<|close|>think<|sep|>",),
            answer=(("<|open|>response<|sep|>", "<|close|>response<|sep|>"),),
        ),
        ReasoningFormat(
            "cohere",
            ("<|START_THINKING|>",),
            ("<|END_THINKING|>",),
            answer=(("<|START_RESPONSE|>", "<|END_RESPONSE|>"), ("<|START_TEXT|>", "<|END_TEXT|>")),
        ),
        ReasoningFormat("gemma4", ("<|channel>thought\n", "<|channel>thought"), ("<channel|>",)),
        ReasoningFormat("harmony", HARMONY_ANALYSIS, ("<|end|>",), repeats=True, answer=HARMONY_FINAL),
        ReasoningFormat("apertus", ("<|inner_prefix|>",), ("<|inner_suffix|>",)),
        ReasoningFormat("plamo3", ("<|plamo:begin_think:plamo|>",), ("<|plamo:end_think:plamo|>",)),
        ReasoningFormat(
            "inkling",
            ("<|message_model|><|content_thinking|>", "<|content_thinking|>"),
            ("<|end_message|>",),
            repeats=True,
            answer=(("<|message_model|><|content_text|>", "<|end_message|>"), ("<|content_text|>", "<|end_message|>")),
        ),
        ReasoningFormat(
            "granite",
            ("Here is my thought process:", "Here's my thought process:"),
            ("Here is my response:", "Here's my response:"),
        ),
    )
}

ALIASES: dict[str, str] = {
    "beam": "harmony",
    "openai_gptoss": "harmony",
    "gpt_oss": "harmony",
    "openai": "harmony",
    "cohere_command3": "cohere",
    "cohere_command4": "cohere",
    "apertus2509": "apertus",
    "seed_oss": "seed",
    "hunyuan_a13b": "think_answer",
    "hunyuan": "think",
    "ernie45": "think_response",
    "minimax_m2_append_think": "think_appended",
    "minimax_append_think": "think_appended",
    "nemotron_v3": "think_never_empty",
    "nemotron_3": "think_never_empty",
    "qwen3": "think_verbatim",
    "qwen3_thinking": "think_prompted",
    "kimi_k2": "think",
    **dict.fromkeys(
        ("deepseek_r1", "deepseek_v4", "deepseek_v41", "minimax", "minimax_m2", "step3", "step3p5", "step5", "nanbeige"),
        "think_prompted",
    ),
    **dict.fromkeys(
        ("deepseek_v3", "dots", "glm45", "glm47", "granite_thinking_parser", "granite_thinking", "hermes", "hf", "holo2"),
        "think",
    ),
    **dict.fromkeys(
        ("hy_v3", "hy_v4", "interns1", "iquest_q1", "ling3", "mimo", "minicpmv", "olmo3", "poolside_v1", "gigachat35"),
        "think",
    ),
    **dict.fromkeys(("muse_glimmer", "musespark1x"), "muse"),
    "response_template": "think",
}


def reasoning_format(name: str) -> ReasoningFormat:
    """The format of that name, in any spelling (`-`, `_`, `.`). Raises UnknownName."""
    spelled = name.lower().replace("-", "_").replace(".", "_")
    found = FORMATS.get(ALIASES.get(spelled, spelled))
    if found is None:
        raise UnknownName("reasoning format", name, [*FORMATS, *ALIASES])
    return found
