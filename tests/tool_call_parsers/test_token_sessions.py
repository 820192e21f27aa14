"""Prompts only grow: a turn's prompt begins with the turn before it, id by id, or the fork is counted."""

import importlib.util
import json
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from core.types import Message, Role, ToolCall, ToolSpec, Turn
from tests.tool_call_parsers.family_templates import FAMILIES, Family
from tests.tool_call_parsers.tiny_model import tiny_tokenizer
from tool_call_parsers.chat_template import ChatTemplate, RenderError
from tool_call_parsers.encoding import FastEncoding
from tool_call_parsers.rendering import Conversation, Renderer, ThinkingRetention, TokenSession, extends

CONVERSATIONS = 1000
TOOLS = tuple(
    ToolSpec(name=name, description="Grüße", parameters={"type": "object", "properties": {"path": {"type": "string"}}})
    for name in ("write_file", "run")
)
WORDS = ["Right.", " The file", "\n", " 世界", " 🌍", " 3.14", "  ", '"', "\\", "é", "<|im_end|>", "</s>", "<think>", " a.py"]
ASK = Message(role=Role.USER, content="Write the file, 世界!")


def renderer_of(family: Family) -> Renderer:
    tokenizer = tiny_tokenizer(family.control, family.markers)
    variables = {"bos_token": family.control[0], "eos_token": family.eos[0]}
    eos = [index for index in map(tokenizer.token_to_id, family.eos) if index is not None]
    return Renderer(FastEncoding(tokenizer), ChatTemplate(family.template, variables), eos)


@cache
def renderer(name: str) -> Renderer:
    return renderer_of(FAMILIES[name])


class Chat:
    """One random conversation: what a model may sample, tools answer and users ask."""

    def __init__(self, renderer: Renderer, seed: int) -> None:
        self.random, self.renderer = random.Random(seed), renderer
        self.opening = [ASK.model_copy(update={"content": self.words()})]
        self.turns: list[Turn] = []
        self.calls = 0

    def words(self, most: int = 6) -> str:
        return "".join(self.random.choices(WORDS, k=self.random.randint(1, most)))

    def play(self, prompt: tuple[int, ...]) -> None:
        """Sample a turn from this prompt, and answer it."""
        message = self.said()
        self.turns.append(
            Turn(
                prompt_ids=prompt,
                completion_ids=(sampled := self.sampled()),
                logprobs=(0.0,) * len(sampled),
                message=message,
                observations=self.answers(message),
            )
        )

    def said(self) -> Message:
        calls: list[ToolCall] = []
        for _ in range(self.random.choice([0, 1, 1, 1, 2])):
            name = self.random.choice(TOOLS).name
            calls.append(ToolCall(id=f"functions.{name}:{self.calls}", name=name, arguments=json.dumps({"path": self.words()})))
            self.calls += 1
        thought = self.words() if self.random.random() < 0.4 else None
        return Message(role=Role.ASSISTANT, content=self.words(), reasoning=thought, tool_calls=tuple(calls))

    def sampled(self) -> tuple[int, ...]:
        """Ids that no tokenizer writes so, ended by any of the end tokens, or cut."""
        spelled = [index for letter in self.words(8) for index in self.renderer.encode_plain(letter)]
        end = self.random.choice([*self.renderer.eos_ids, self.renderer.eos_ids[0], None])
        return (*spelled, *([] if end is None else [end]))

    def answers(self, message: Message) -> tuple[Message, ...]:
        told = [Message(role=Role.TOOL, content=self.words(12), tool_call_id=call.id) for call in message.tool_calls]
        if not told or self.random.random() < 0.15:
            told.append(Message(role=Role.USER, content=self.words(12)))
        return tuple(told)


def play(renderer: Renderer, seed: int) -> None:
    """One conversation: each prompt extends the turn before it, or counts as a fork."""
    chat = Chat(renderer, seed)
    session = TokenSession(renderer, TOOLS[: chat.random.randint(0, 2)])
    for _ in range(chat.random.randint(2, 4)):
        before = session.forks
        try:
            prompt = session.prompt(chat.opening, chat.turns)
        except RenderError:
            return  # a template that refuses the conversation itself, as Llama's does two calls
        if chat.turns:
            after = chat.turns[-1].model_copy(update={"prompt_ids": prompt, "completion_ids": (), "logprobs": ()})
            assert extends(chat.turns[-1], after) is (session.forks == before)
        chat.play(prompt)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_prompt_begins_with_the_turn_before_it_or_the_fork_is_counted(name: str):
    for seed in range(CONVERSATIONS):
        play(renderer(name), seed)


def faithful(renderer: Renderer, messages: Sequence[Message], said: Message, new: Sequence[Message]) -> Turn:
    """The turn that said this as the template itself writes it."""
    prompt = renderer.render(messages, TOOLS)
    bridge = renderer.bridge(said, new, TOOLS)
    whole = renderer.render([*messages, said, *new], TOOLS)
    assert bridge is not None
    assert whole[: len(prompt)] == prompt
    completion = whole[len(prompt) : len(whole) - len(bridge.ids) + 1]
    return Turn(
        prompt_ids=tuple(prompt),
        completion_ids=tuple(completion),
        logprobs=(0.0,) * len(completion),
        message=said,
        observations=tuple(new),
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_model_writes_like_its_template_extends_to_the_ids_of_the_whole_conversation(name: str):
    for seed in range(50):
        chat = Chat(renderer(name), seed)
        call = ToolCall(id="functions.run:0", name="run", arguments=json.dumps({"path": chat.words()}))
        said = Message(
            role=Role.ASSISTANT, content="" if name in ("llama3", "mistral", "gpt_oss") else "Right.", tool_calls=(call,)
        )
        answer = Message(role=Role.TOOL, content=chat.words(12), tool_call_id=call.id)
        turn = faithful(chat.renderer, chat.opening, said, [answer])
        session = TokenSession(chat.renderer, TOOLS)
        assert list(session.next(chat.opening, [turn])) == chat.renderer.render([*chat.opening, said, answer], TOOLS)
        assert session.forks == 0


@pytest.mark.parametrize("name", FAMILIES)
def test_bridges_are_proved_for_every_family(name: str):
    proof = renderer(name).proof(TOOLS)
    assert proof.exact
    assert "an answer" in proof.shapes


def test_tools_are_rendered_for_a_bridge_only_where_they_change_it():
    assert [name for name in FAMILIES if renderer(name).proof(TOOLS).needs_tools] == ["mistral"]


THOUGHT = Message(
    role=Role.ASSISTANT, content="Right.", reasoning="hm", tool_calls=(ToolCall(id="c", name="run", arguments="{}"),)
)
ANSWER = Message(role=Role.TOOL, content="ok", tool_call_id="c")
AGAIN = Message(role=Role.USER, content="And now?")


def forks(name: str, retention: ThinkingRetention, *new: Message) -> int:
    """Forks of a conversation in which a turn that thought is followed by these messages."""
    session = TokenSession(renderer(name), TOOLS, retention)
    first = session.first([ASK])
    ids = (*renderer(name).encode("hm</think>Right."), renderer(name).eos_ids[0])
    session.next(
        [ASK], [Turn(prompt_ids=first, completion_ids=ids, logprobs=(0.0,) * len(ids), message=THOUGHT, observations=new)]
    )
    return session.forks


@pytest.mark.parametrize(
    ("name", "retention", "expected"),
    [
        ("hermes", ThinkingRetention.TEMPLATE, (0, 0)),
        ("hermes", ThinkingRetention.TOOL_CYCLE, (0, 1)),
        ("hermes", ThinkingRetention.ALL, (0, 0)),
        ("qwen3", ThinkingRetention.TEMPLATE, (0, 1)),
        ("qwen3", ThinkingRetention.TOOL_CYCLE, (0, 1)),
        ("qwen3", ThinkingRetention.ALL, (0, 0)),
        ("qwen3_coder", ThinkingRetention.TEMPLATE, (0, 1)),
        ("qwen3_coder", ThinkingRetention.ALL, (0, 0)),
        ("mistral", ThinkingRetention.ALL, (0, 1)),  # its tools move to the last question
    ],
)
def test_how_long_thinking_is_kept_is_a_choice(name: str, retention: ThinkingRetention, expected: tuple[int, int]):
    assert (forks(name, retention, ANSWER), forks(name, retention, ANSWER, AGAIN)) == expected


def test_a_tool_cycle_that_ended_is_rendered_without_its_thinking():
    session = TokenSession(renderer("hermes"), TOOLS, ThinkingRetention.TOOL_CYCLE)
    turn = Turn(message=THOUGHT, observations=(ANSWER, AGAIN))
    assert "hm" not in renderer("hermes").decode(session.next([ASK], [turn]))


def test_a_turn_that_ended_where_another_message_would_begin_forks():
    glm = renderer("glm45")
    session = TokenSession(glm, TOOLS)
    first = session.first([ASK])
    for_user = (*glm.encode("Right."), glm.encode("<|user|>")[0])
    turn = Turn(
        prompt_ids=first, completion_ids=for_user, logprobs=(0.0,) * len(for_user), message=THOUGHT, observations=(ANSWER,)
    )
    session.next([ASK], [turn])
    assert session.forks == 1


def test_ids_of_calls_are_printed_as_the_model_wrote_them():
    call = ToolCall(id="functions.run:7", name="run", arguments="{}")
    said = Message(role=Role.ASSISTANT, tool_calls=(call,))
    answer = Message(role=Role.TOOL, content="ok", tool_call_id=call.id)
    kimi = renderer("kimi_k2")
    assert kimi.decode(kimi.render([ASK, said, answer])).count("functions.run:7") == 2


def test_ids_of_calls_have_nine_characters_where_the_template_asks_for_them():
    call = ToolCall(id="call_of_another_form", name="run", arguments="{}")
    said = Message(role=Role.ASSISTANT, tool_calls=(call,))
    mistral = renderer("mistral")
    text = mistral.decode(mistral.render([ASK, said, Message(role=Role.TOOL, content="ok", tool_call_id=call.id)]))
    assert json.loads(text.split("[TOOL_CALLS] ")[1].split("</s>")[0])[0]["id"] == text.split('"call_id": "')[1][:9]


def test_arguments_are_text_for_a_template_that_takes_nothing_else():
    texts = FAMILIES["hermes"]._replace(template=FAMILIES["kimi_k2"].template.replace("arguments | tojson", "arguments + ''"))
    call = ToolCall(id="c", name="run", arguments='{"path":  "a.py"}')
    model = renderer_of(texts)
    assert '{"path":  "a.py"}' in model.decode(model.render([ASK, Message(role=Role.ASSISTANT, tool_calls=(call,))]))


def conversation(name: str, retention: ThinkingRetention = ThinkingRetention.TEMPLATE) -> tuple[Conversation, tuple[int, ...]]:
    """A conversation after one sampled turn, and the ids of prompt and turn."""
    chat = Conversation(renderer(name), retention)
    prompt = chat.prompt([ASK], TOOLS)
    ids = (*renderer(name).encode("Right."), renderer(name).eos_ids[0])
    chat.sampled(prompt, ids, THOUGHT)
    return chat, (*prompt, *ids)


def test_a_client_that_sends_the_conversation_back_extends_it():
    chat, so_far = conversation("hermes")
    renamed = THOUGHT.tool_calls[0].model_copy(update={"id": "another", "arguments": "{ }"})
    returned = THOUGHT.model_copy(update={"tool_calls": (renamed,)})
    assert chat.prompt([ASK, returned, ANSWER], TOOLS)[: len(so_far)] == so_far
    assert chat.forks == 0


@pytest.mark.parametrize(
    ("messages", "tools"),
    [
        ([ASK, THOUGHT.model_copy(update={"content": "Wrong."}), ANSWER], TOOLS),
        ([ASK, THOUGHT.model_copy(update={"reasoning": None}), ANSWER], TOOLS),
        ([AGAIN, THOUGHT, ANSWER], TOOLS),
        ([ASK, THOUGHT, ANSWER], TOOLS[:1]),
        ([ASK], TOOLS),
    ],
)
def test_a_client_that_edits_history_or_changes_tools_forks(messages: list[Message], tools: tuple[ToolSpec, ...]):
    chat, _ = conversation("hermes")
    assert list(chat.prompt(messages, tools)) == renderer("hermes").render(messages, tools)
    assert chat.forks == 1


def test_a_client_that_leaves_reasoning_out_extends_where_all_of_it_is_kept():
    chat, so_far = conversation("hermes", ThinkingRetention.ALL)
    assert chat.prompt([ASK, THOUGHT.model_copy(update={"reasoning": None}), ANSWER], TOOLS)[: len(so_far)] == so_far


def test_a_tokenizer_of_transformers_renders_as_its_own_apply_chat_template():
    from transformers import PreTrainedTokenizerFast

    family = FAMILIES["kimi_k2"]
    theirs = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer(family.control, family.markers), eos_token=family.eos[0])
    theirs.chat_template = family.template
    ours = Renderer.from_tokenizer(theirs, family.eos)
    said = THOUGHT.to_openai() | {"tool_calls": [{"id": "c", "type": "function", "function": {"name": "run", "arguments": {}}}]}
    messages = [ASK.to_openai(), said, ANSWER.to_openai()]
    tools = [tool.to_openai() for tool in TOOLS]
    expected = theirs.apply_chat_template(messages, tools=tools, add_generation_prompt=True, return_dict=False)
    assert ours.render(messages, tools) == expected
    assert [ours.decode([index]) for index in ours.eos_ids] == list(family.eos)


TRL = importlib.util.find_spec("trl")
SHIPPED = {
    "qwen2_5_training": "hermes",
    "qwen3": "qwen3",
    "qwen3_training": "qwen3",
    "qwen3_5_think": "qwen3_coder",
    "nemotron_3_nano": "qwen3_coder",
    "llama3_1": "llama3",
    "deepseekv3": "deepseek_v31",
    "glm4moe": "glm45",
    "gptoss": "gpt_oss",
    "gemma4_v5": "gemma4",
}


@pytest.mark.skipif(TRL is None, reason="trl is not installed: it ships chat templates of models")
@pytest.mark.parametrize("name", SHIPPED)
def test_templates_of_models_extend_or_fork(name: str):
    assert TRL is not None
    assert TRL.origin is not None
    source = (Path(TRL.origin).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
    model = renderer_of(FAMILIES[SHIPPED[name]]._replace(template=source))
    assert model.proof(TOOLS).exact
    for seed in range(CONVERSATIONS // 10):
        play(model, seed)
