"""`natgym parse`: what a parser sees, one line a thing, and nothing that a model wrote reaches the terminal as a command."""

import argparse
import json
from pathlib import Path

import pytest

from core.errors import BadData, UnknownName, UserError
from core.settings import Settings
from services.commands import parse
from tests.services.small_policy import ROOT, natgym

CALL = '<tool_call>\n{"name": "run", "arguments": {"path": "a.py"}}\n</tool_call>'
TOOL = {"type": "function", "function": {"name": "run", "parameters": {"type": "object", "required": ["path"]}}}


def shown(capsys: pytest.CaptureFixture[str], text: str, *options: str, folder: Path) -> tuple[int, str]:
    """Exit code and output for a file that holds this text."""
    file = folder / "completion.txt"
    file.write_text(text, encoding="utf-8")
    parser = argparse.ArgumentParser()
    parse.configure(parser)
    code = parse.run(parser.parse_args([str(file), *options]), Settings())
    return code, capsys.readouterr().out


def test_everything_that_was_said_is_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    code, out = shown(capsys, f"<think>hm</think>Right.{CALL}", "--format", "hermes", folder=tmp_path)
    lines = [line.split(maxsplit=1) for line in out.splitlines()]
    assert code == 0
    assert lines[:3] == [["format", "hermes"], ["reasoning", "hm"], ["content", "Right."]]
    assert lines[3][1].startswith('run {"path": "a.py"}')


def test_what_is_malformed_is_named_and_told_by_the_exit_code(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    code, out = shown(capsys, "<tool_call>\n{oops}\n</tool_call>", "--format", "hermes", folder=tmp_path)
    assert code == 1
    assert "bad_json" in out


def test_json_holds_the_same_facts(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    _, out = shown(capsys, CALL, "--format", "hermes", "--json", folder=tmp_path)
    told = json.loads(out)
    assert (told["format"], told["calls"][0]["name"], told["malformed"]) == ("hermes", "run", [])


def test_calls_are_checked_against_tools(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    tools = tmp_path / "tools.json"
    tools.write_text(json.dumps([TOOL]))
    code, out = shown(capsys, CALL.replace('"path"', '"file"'), "--format", "hermes", "--tools", str(tools), folder=tmp_path)
    assert code == 1
    assert "'path' is a required property" in out


def test_a_format_is_known_in_any_spelling(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert shown(capsys, "Yes", "--format", "Kimi-K2", folder=tmp_path)[0] == 0


@pytest.mark.parametrize("model", ["Qwen/Qwen3-8B", str(ROOT / "trainer/policies/nat_small")])
def test_the_format_of_a_model_is_found_with_the_reason(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str):
    told = json.loads(shown(capsys, CALL, "--model", model, "--json", folder=tmp_path)[1])
    assert (told["format"], len(told["calls"])) == ("hermes", 1)
    assert told["why"]


def test_an_unknown_format_is_refused_with_a_near_name(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    with pytest.raises(UnknownName, match="no parser 'hermez'; did you mean 'hermes'"):
        shown(capsys, "Yes", "--format", "hermez", folder=tmp_path)


@pytest.mark.parametrize("options", [[], ["--format", "hermes", "--model", "Qwen/Qwen3-8B"]])
def test_one_way_to_choose_a_format_is_asked_for(capsys: pytest.CaptureFixture[str], tmp_path: Path, options: list[str]):
    with pytest.raises(UserError, match="--format NAME or --model NAME"):
        shown(capsys, "Yes", *options, folder=tmp_path)


def test_a_file_of_tools_that_holds_none_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    tools = tmp_path / "tools.json"
    tools.write_text('[{"type": "function"}]')
    with pytest.raises(BadData, match="not a tool"):
        shown(capsys, CALL, "--format", "hermes", "--tools", str(tools), folder=tmp_path)


def test_control_characters_of_a_model_are_written_out(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    _, out = shown(capsys, "\x1b[2J\x07[red]bold[/red]", "--format", "hermes", folder=tmp_path)
    assert "\x1b" not in out
    assert "\\x1b[2J\\x07[red]bold[/red]" in out


def test_a_missing_file_is_told_in_one_line(tmp_path: Path):
    done = natgym("parse", "--format", "hermes", "nowhere.txt", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "natgym: nowhere.txt: No such file or directory\n"
