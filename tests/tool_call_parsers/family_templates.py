"""Chat templates in the grammar of ten families, written for the tests: small, and with the habits that break prefixes.

None of them is a model's own; those are tried beside them where a package that ships them is installed.
"""
# ruff: noqa: RUF001 - DeepSeek's tokens are spelled with full-width bars

from typing import NamedTuple


class Family(NamedTuple):
    """A template with the tokens that its tokenizer needs; the first end token is the template's own."""

    template: str
    control: tuple[str, ...]
    eos: tuple[str, ...]
    markers: tuple[str, ...] = ()


CHATML_CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
HERMES_MARKERS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")

CHATML_TOOLS = """{%- if tools %}
    {{- '<|im_start|>system\\n<tools>' }}
    {%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}
    {{- '\\n</tools><|im_end|>\\n' }}
{%- endif %}
"""
CHATML_TOOL_ANSWER = """
    {%- elif message.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
"""
LAST_QUERY = """{%- set last = namespace(query=-1) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}{%- set last.query = loop.index0 %}{%- endif %}
{%- endfor %}
"""
JSON_CALLS = """
        {%- for call in message.tool_calls or [] %}
            {{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments if call.function.arguments is string else call.function.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
"""
# ChatML with JSON calls and all reasoning kept.
HERMES = f"""{CHATML_TOOLS}{{%- for message in messages %}}
    {{%- if message.role == 'assistant' %}}
        {{{{- '<|im_start|>assistant\\n' }}}}
        {{%- if message.reasoning_content %}}
            {{{{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}}}
        {{%- endif %}}
        {{{{- message.content }}}}
{JSON_CALLS}
        {{{{- '<|im_end|>\\n' }}}}{CHATML_TOOL_ANSWER}
{{%- if add_generation_prompt %}}{{{{- '<|im_start|>assistant\\n' }}}}{{%- endif %}}"""
# Reasoning since the last question only; the last turn gets an empty block where it thought nothing.
QWEN3 = f"""{CHATML_TOOLS}{LAST_QUERY}{{%- for message in messages %}}
    {{%- if message.role == 'assistant' %}}
        {{{{- '<|im_start|>assistant\\n' }}}}
        {{%- if loop.index0 > last.query and (loop.last or message.reasoning_content) %}}
            {{{{- '<think>\\n' + (message.reasoning_content or '') + '\\n</think>\\n\\n' }}}}
        {{%- endif %}}
        {{{{- message.content }}}}
{JSON_CALLS}
        {{{{- '<|im_end|>\\n' }}}}{CHATML_TOOL_ANSWER}
{{%- if add_generation_prompt %}}{{{{- '<|im_start|>assistant\\n' }}}}{{%- endif %}}"""
# XML calls; the prompt opens the reasoning block, and history before the last question loses it.
QWEN3_CODER = f"""{CHATML_TOOLS}{LAST_QUERY}{{%- for message in messages %}}
    {{%- if message.role == 'assistant' %}}
        {{{{- '<|im_start|>assistant\\n' }}}}
        {{%- if loop.index0 > last.query %}}
            {{{{- '<think>\\n' + (message.reasoning_content or '') + '\\n</think>\\n\\n' }}}}
        {{%- endif %}}
        {{{{- message.content }}}}
        {{%- for call in message.tool_calls or [] %}}
            {{{{- '\\n<tool_call>\\n<function=' + call.function.name + '>\\n' }}}}
            {{%- for name, value in call.function.arguments | items %}}
                {{{{- '<parameter=' + name + '>\\n' + value | string + '\\n</parameter>\\n' }}}}
            {{%- endfor %}}
            {{{{- '</function>\\n</tool_call>' }}}}
        {{%- endfor %}}
        {{{{- '<|im_end|>\\n' }}}}{CHATML_TOOL_ANSWER}
{{%- if add_generation_prompt %}}{{{{- '<|im_start|>assistant\\n<think>\\n' }}}}{{%- endif %}}"""
# Header tokens, trimmed contents, one call a turn that stands in place of the content.
LLAMA3 = """{{- bos_token }}
{%- if tools %}{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
    {%- for tool in tools %}{{- tool | tojson }}{%- endfor %}
    {{- '<|eot_id|>' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' and message.tool_calls %}
        {%- if message.tool_calls | length != 1 %}{{- raise_exception('one call a turn') }}{%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson }}{{- '}<|eot_id|>' }}
    {%- else %}
        {%- set role = 'ipython' if message.role == 'tool' else message.role %}
        {{- '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"""
# The tools stand before the last question; ids of nine characters, or none at all.
MISTRAL = (
    LAST_QUERY
    + """{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {%- if message.tool_calls %}
            {{- '[TOOL_CALLS] [' }}
            {%- for call in message.tool_calls %}
                {%- if call.id | length != 9 %}{{- raise_exception('ids have 9 characters') }}{%- endif %}
                {{- '{"name": "' + call.function.name + '", "arguments": ' + call.function.arguments | tojson }}
                {{- ', "id": "' + call.id + '"}' }}{{- ', ' if not loop.last }}
            {%- endfor %}
            {{- ']' + eos_token }}
        {%- else %}
            {{- ' ' + message.content | trim + eos_token }}
        {%- endif %}
    {%- elif message.role == 'tool' %}
        {{- '[TOOL_RESULTS] {"content": ' + message.content | tojson + ', "call_id": "' + message.tool_call_id }}
        {{- '"}[/TOOL_RESULTS]' }}
    {%- elif message.role == 'user' %}
        {%- if tools and loop.index0 == last.query %}
            {{- '[AVAILABLE_TOOLS] ' }}{{- tools | tojson }}{{- '[/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST] ' + message.content + '[/INST]' }}
    {%- else %}
        {{- '[INST] ' + message.content + '[/INST]' }}
    {%- endif %}
{%- endfor %}"""
)
# The prompt closes an empty reasoning block, which history keeps; one sequence token a turn.
DEEPSEEK = """{{- bos_token }}{%- for tool in tools or [] %}{{- tool | tojson }}{%- endfor %}
{%- set state = namespace(tool=false) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {{- '<｜User｜>' + message.content }}{%- set state.tool = false %}
    {%- elif message.role == 'assistant' %}
        {{- '' if state.tool else '<｜Assistant｜></think>' }}{{- message.content }}
        {%- for call in message.tool_calls or [] %}
            {{- '<｜tool▁calls▁begin｜>' if loop.first }}{{- '<｜tool▁call▁begin｜>' + call.function.name + '<｜tool▁sep｜>' }}
            {{- call.function.arguments | tojson }}{{- '<｜tool▁call▁end｜>' }}
            {{- '<｜tool▁calls▁end｜>' if loop.last }}
        {%- endfor %}
        {{- eos_token }}{%- set state.tool = false %}
    {%- elif message.role == 'tool' %}
        {{- '<｜tool▁output▁begin｜>' + message.content + '<｜tool▁output▁end｜>' }}{%- set state.tool = true %}
    {%- else %}
        {{- message.content }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt and not state.tool %}{{- '<｜Assistant｜></think>' }}{%- endif %}"""
# Prints the ids of calls, and answers by them.
KIMI = """{%- if tools %}{{- '<|im_system|>tool_declare<|im_middle|>' }}{{- tools | tojson }}{{- '<|im_end|>' }}{%- endif %}
{%- for message in messages %}
    {%- set kind = {'user': 'user', 'assistant': 'assistant'}.get(message.role, 'system') %}
    {{- '<|im_' + kind + '|>' + message.role + '<|im_middle|>' }}
    {%- if message.role == 'tool' %}
        {{- '## Return of ' + message.tool_call_id + '\\n' }}
    {%- endif %}
    {{- message.content }}
    {%- for call in message.tool_calls or [] %}
        {{- '<|tool_calls_section_begin|>' if loop.first }}
        {{- '<|tool_call_begin|>' + call.id + '<|tool_call_argument_begin|>' }}
        {{- call.function.arguments | tojson }}{{- '<|tool_call_end|>' }}
        {{- '<|tool_calls_section_end|>' if loop.last }}
    {%- endfor %}
    {{- '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_assistant|>assistant<|im_middle|>' }}{%- endif %}"""
# No token closes a turn: the one that opens the next message does.
GLM = (
    LAST_QUERY
    + """{{- '[gMASK]<sop>' }}
{%- if tools %}{{- '<|system|>\\n' }}{%- for tool in tools %}{{- tool | tojson + '\\n' }}{%- endfor %}{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|assistant|>' }}
        {{- '\\n<think>' + (message.reasoning_content or '' if loop.index0 > last.query else '') + '</think>\\n' }}
        {{- message.content }}
        {%- for call in message.tool_calls or [] %}
            {{- '\\n<tool_call>' + call.function.name }}
            {%- for name, value in call.function.arguments | items %}
                {{- '\\n<arg_key>' + name + '</arg_key>\\n<arg_value>' + value | string + '</arg_value>' }}
            {%- endfor %}
            {{- '\\n</tool_call>' }}
        {%- endfor %}
    {%- elif message.role == 'tool' %}
        {{- '<|observation|>' if loop.first or messages[loop.index0 - 1].role != 'tool' }}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
    {%- else %}
        {{- '<|' + message.role + '|>\\n' + message.content }}
    {%- endif %}
{%- endfor %}
{{- '<|assistant|>' if add_generation_prompt }}"""
)
# Channels; a call ends with a token of its own, and the last answer with another one than the same answer in history.
HARMONY = """{{- '<|start|>system<|message|>Reasoning: low<|end|>' }}
{%- if tools %}{{- '<|start|>developer<|message|>' }}{{- tools | tojson }}{{- '<|end|>' }}{%- endif %}
{%- set name = namespace(last='') %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {%- if message.reasoning_content and (loop.last or message.tool_calls) %}
            {{- '<|start|>assistant<|channel|>analysis<|message|>' + message.reasoning_content + '<|end|>' }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- set call = message.tool_calls[0].function %}{%- set name.last = call.name %}
            {{- '<|start|>assistant to=functions.' + call.name + '<|channel|>commentary json<|message|>' }}
            {{- call.arguments | tojson }}{{- '<|call|>' }}
        {%- else %}
            {{- '<|start|>assistant<|channel|>final<|message|>' + message.content }}
            {{- '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}
        {%- endif %}
    {%- elif message.role == 'tool' %}
        {{- '<|start|>functions.' + name.last + ' to=assistant<|channel|>commentary<|message|>' }}
        {{- message.content | tojson }}{{- '<|end|>' }}
    {%- else %}
        {{- '<|start|>' + message.role + '<|message|>' + message.content + '<|end|>' }}
    {%- endif %}
{%- endfor %}
{{- '<|start|>assistant' if add_generation_prompt }}"""
# Answers belong to the turn that called: it is closed after them, and goes on without a header.
GEMMA = """{{- bos_token }}
{%- if tools %}{{- '<|turn>system\\n' }}{%- for tool in tools %}{{- '<|tool>' + tool.function.name + '<tool|>' }}{%- endfor %}
    {{- '<turn|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|turn>model\\n' }}{%- endif %}
        {{- message.content }}
        {%- for call in message.tool_calls or [] %}
            {{- '<|tool_call>call:' + call.function.name + '{' + call.function.arguments | tojson + '}<tool_call|>' }}
        {%- endfor %}
        {%- if not message.tool_calls %}{{- '<turn|>\\n' }}{%- endif %}
    {%- elif message.role == 'tool' %}
        {{- '<|tool_response>' + message.content + '<tool_response|>' }}
    {%- else %}
        {{- '<|turn>' + message.role + '\\n' + message.content + '<turn|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt and messages[-1].role != 'tool' %}{{- '<|turn>model\\n' }}{%- endif %}"""

FAMILIES = {
    "hermes": Family(HERMES, CHATML_CONTROL, ("<|im_end|>", "<|endoftext|>"), HERMES_MARKERS),
    "qwen3": Family(QWEN3, CHATML_CONTROL, ("<|im_end|>", "<|endoftext|>"), HERMES_MARKERS),
    "qwen3_coder": Family(QWEN3_CODER, CHATML_CONTROL, ("<|im_end|>", "<|endoftext|>"), HERMES_MARKERS),
    "llama3": Family(
        LLAMA3,
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>", "<|python_tag|>"),
        ("<|eot_id|>", "<|eom_id|>"),
    ),
    "mistral": Family(
        MISTRAL,
        (
            "<s>",
            "</s>",
            "[INST]",
            "[/INST]",
            "[AVAILABLE_TOOLS]",
            "[/AVAILABLE_TOOLS]",
            "[TOOL_CALLS]",
            "[TOOL_RESULTS]",
            "[/TOOL_RESULTS]",
        ),
        ("</s>",),
    ),
    "deepseek_v31": Family(
        DEEPSEEK,
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
        ("<｜end▁of▁sentence｜>",),
        (
            "<｜User｜>",
            "<｜Assistant｜>",
            "<｜tool▁calls▁begin｜>",
            "<｜tool▁calls▁end｜>",
            "<｜tool▁call▁begin｜>",
            "<｜tool▁call▁end｜>",
            "<｜tool▁sep｜>",
            "<｜tool▁output▁begin｜>",
            "<｜tool▁output▁end｜>",
            "<think>",
            "</think>",
        ),
    ),
    "kimi_k2": Family(
        KIMI,
        ("[EOS]", "<|im_end|>", "<|im_user|>", "<|im_assistant|>", "<|im_system|>", "<|im_middle|>"),
        ("<|im_end|>", "[EOS]"),
        (
            "<|tool_calls_section_begin|>",
            "<|tool_calls_section_end|>",
            "<|tool_call_begin|>",
            "<|tool_call_argument_begin|>",
            "<|tool_call_end|>",
        ),
    ),
    "glm45": Family(
        GLM,
        ("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
        ("<|endoftext|>", "<|user|>", "<|observation|>"),
        ("<think>", "</think>", "<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    ),
    "gpt_oss": Family(
        HARMONY,
        ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>", "<|call|>"),
        ("<|return|>", "<|call|>"),
    ),
    "gemma4": Family(
        GEMMA,
        ("<bos>", "<eos>", "<|turn>", "<turn|>", "<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>"),
        ("<turn|>", "<eos>", "<|tool_response>"),
        ("<|tool_response>", "<tool_response|>"),
    ),
}
