"""`natgym sft`: a tiny policy learns twenty rows by heart, the engine serves what was made, and mistakes are one line."""

import json
from pathlib import Path

import pytest

from environments.base import Split
from environments.reverse_text import ReverseText
from tests.services.small_policy import natgym
from tests.trainer.toy import write_toy_model
from tool_call_parsers.rendering import Renderer
from trainer.tokenizer import build_tokenizer, save_tokenizer

OTHERS = ("anchor", "basket", "candle", "dragon", "ember", "feather")


def asked(word: str) -> str:
    return f"Say the word {word!r} backwards, and nothing else."


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random policy whose tokenizer knows the words."""
    directory = tmp_path_factory.mktemp("policy")
    words = [str(task.data["answer"])[::-1] for task in ReverseText().tasks(Split.TRAIN)]
    texts = [f"{asked(word)}\n{word[::-1]}" for word in (*words, *OTHERS)]
    save_tokenizer(build_tokenizer(texts * 5, [*words, *(word[::-1] for word in words)]), directory)
    size = Renderer.from_directory(directory).vocab_size
    shape = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 128}
    return write_toy_model(directory, vocab_size=size, max_position_embeddings=512, initializer_range=0.02, **shape)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fourteen tasks of reverse_text as `natgym process` writes them, and six rows more, of another form."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    done = natgym("process", "reverse_text", "--out", str(path), "--groups", "14", "--group-size", "1")
    assert done.returncode == 0, done.stderr
    talks = [[{"role": "user", "content": asked(word)}, {"role": "assistant", "content": word[::-1]}] for word in OTHERS]
    with path.open("a") as file:
        file.writelines(json.dumps({"messages": talk}) + "\n" for talk in talks)
    return path


def test_a_dry_run_counts_and_writes_nothing(policy: Path, rows: Path, tmp_path: Path):
    out = tmp_path / "out"
    done = natgym("sft", "--data", str(rows), "--model", str(policy), "--out", str(out), "--epochs", "2", "--dry-run", "--json")
    found = json.loads(done.stdout)
    assert (found["rows"], found["steps"]) == (20, 2)
    assert 0 < found["learnt_tokens"] < found["tokens"]
    assert not out.exists()


@pytest.mark.slow
def test_twenty_rows_are_learnt_by_heart_and_the_engine_answers_with_them(policy: Path, rows: Path, tmp_path: Path):
    out = tmp_path / "out"
    told = ["--learning-rate", "3e-3", "--epochs", "140", "--threads", "1", "--json"]
    done = natgym("sft", "--data", str(rows), "--model", str(policy), "--out", str(out), *told)
    assert done.returncode == 0, done.stderr
    learnt = json.loads(done.stdout)
    assert learnt["last_loss"] < 0.1 < 1.0 < learnt["first_loss"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    played = natgym("evaluate", "reverse_text", "--split", "train", "--policy", str(out), "--policy.temperature", "0", "--json")
    assert played.returncode == 0, played.stderr
    assert json.loads(played.stdout)["success"]["mean"] >= 0.9


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--data", "no.jsonl"], "no.jsonl: not found"),
        (["--data", "broken.jsonl"], "broken.jsonl: row 2: messages.0.role: Input should be"),
        (["--data", "good.jsonl", "--max-tokens", "3"], "good.jsonl: row 1: the conversation: "),
        (["--data", "good.jsonl", "--model", "nowhere"], "there is no model at nowhere"),
        (["--data", "good.jsonl", "--out", "."], "holds something that is no model; choose another folder"),
        (["--data", "good.jsonl", "--epochs", "0"], "--epochs: expected at least 1, found 0"),
        (["--data", "good.jsonl", "--learning-rate", "-1"], "learning_rate: Input should be greater than 0"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], problem: str, policy: Path, tmp_path: Path):
    good = json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})
    (tmp_path / "good.jsonl").write_text(f"{good}\n")
    (tmp_path / "broken.jsonl").write_text(f"{good}\n{good.replace('user', 'you')}\n")
    done = natgym("sft", "--model", str(policy), *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert problem in done.stderr
    assert done.stderr.count("\n") == 1
