"""A small tokenizer and chat templates in the shapes of real families, built in the tests."""

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKERS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")

TOOLS_HEADER = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools>\\n\\n<tool_call>\\n{\\"name\\": <name>, \\"arguments\\": <object>}\\n</tool_call><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
"""
ASSISTANT = """        {{- '<|im_start|>assistant\\n' + thought + message.content }}
        {%- for call in message.tool_calls or [] %}
            {{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
            {%- if call.function.arguments is string %}
                {{- call.function.arguments }}
            {%- else %}
                {{- call.function.arguments | tojson }}
            {%- endif %}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
"""
OTHERS = """    {%- elif message.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- elif message.role != 'system' or not loop.first %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
# Keeps all reasoning.
KEEPS_THINKING = f"""{TOOLS_HEADER}{{%- for message in messages %}}
    {{%- if message.role == 'assistant' %}}
        {{%- set thought = message.reasoning_content or '' %}}
        {{%- set thought = '<think>\\n' + thought + '\\n</think>\\n\\n' if thought else '' %}}
{ASSISTANT}{OTHERS}"""
# Drops the reasoning of turns before the last user message, as Qwen3's does.
DROPS_THINKING = f"""{TOOLS_HEADER}{{%- set last = namespace(query=0) %}}
{{%- for message in messages %}}
    {{%- if message.role == 'user' %}}
        {{%- set last.query = loop.index0 %}}
    {{%- endif %}}
{{%- endfor %}}
{{%- for message in messages %}}
    {{%- if message.role == 'assistant' %}}
        {{%- set thought = '' %}}
        {{%- if message.reasoning_content and loop.index0 > last.query %}}
            {{%- set thought = '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' %}}
        {{%- endif %}}
{ASSISTANT}{OTHERS}"""
# Writes nothing after an assistant message, so no turn can be closed.
WITHOUT_END = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"

CORPUS = [
    "You are a careful agent. Write the file, run the tests, then finish.",
    "def add(first: float, second: float) -> float:\n    return first + second\n",
    '{"type": "function", "function": {"name": "write_file", "arguments": {"path": "a.py", "content": "x = 1"}}}',
    "Grüße, 世界! 12345 <tools> user assistant system tool",
]


def tiny_tokenizer(control: Sequence[str] = CONTROL, markers: Sequence[str] = MARKERS) -> Tokenizer:
    """A byte-level BPE of about 500 entries with Qwen's control tokens and markers, or others."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(r"\d| ?[^\s\d]+|\s+"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False, special_tokens=list(control))
    tokenizer.train_from_iterator(CORPUS * 4, trainer)
    tokenizer.add_tokens([AddedToken(marker, special=False, normalized=False) for marker in markers])
    return tokenizer


def write_model(directory: Path, template: str, eos: Sequence[str] = ("<|im_end|>", "<|endoftext|>")) -> Path:
    """A model directory without weights."""
    tokenizer = tiny_tokenizer()
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eos[0], "pad_token": "<|endoftext|>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    ids = [tokenizer.token_to_id(token) for token in eos]
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}), encoding="utf-8")
    return directory
