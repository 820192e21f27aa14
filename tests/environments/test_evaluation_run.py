"""An evaluation in a folder: taken up again, in lighteval's form, compared, and a page that no completion can script."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from core.errors import BadData, ConfigError, UserError
from core.types import JsonObject
from environments.episode import Arena
from environments.evaluation import EvaluationConfig, EvaluationReport, evaluate
from environments.evaluation_run import EvaluationRun, compare
from environments.gold_policy import GoldPolicy
from environments.policy import Policy
from tests.fakes import FakeBackend, FakePolicy, Sums

SUMS = Sums()
GOLD = GoldPolicy(SUMS.gold)
TOLD: JsonObject = {"environment": "sums", "policy": "gold"}
ATTACK = "</script></pre><script>alert(1)</script><img src=x onerror=alert(2)>"


async def played(folder: Path, policy: Policy = GOLD, **options: object) -> tuple[EvaluationReport, FakeBackend]:
    config, backend = EvaluationConfig.model_validate(options), FakeBackend()
    arena = Arena(SUMS, policy, backend)
    tasks = {task.id: task for task in SUMS.tasks(config.split)}
    with EvaluationRun(folder, TOLD) as run:
        keep = lambda one: run.add(tasks[one.task_id], one, config.success_reward)  # noqa: E731
        report, trajectories = await evaluate(arena, config, keep, run.known)
        run.finish(report, tasks, trajectories)
    return report, backend


async def test_a_killed_run_plays_what_is_missing_and_finds_the_same(tmp_path: Path):
    report, _ = await played(tmp_path / "run", samples=2)
    samples = tmp_path / "run" / "samples.jsonl"
    kept = samples.read_bytes()
    samples.write_bytes(kept[: len(kept) - 40])  # its last line is torn
    again, backend = await played(tmp_path / "run", samples=2)
    assert len(backend.made) == 1
    assert again.success == report.success
    assert len({json.loads(line)["trajectory"]["id"] for line in samples.read_text().splitlines()}) == 8


async def test_metrics_have_the_form_of_lighteval(tmp_path: Path):
    await played(tmp_path / "run", samples=2)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["results"]["all"]["success"] == 1.0
    assert metrics["results"]["all"]["pass@2"] == 1.0
    assert metrics["results"]["natgym:sums|0"]["success_stderr"] > 0
    assert metrics["config_general"]["model_name"] == "gold"
    sections = {"config_general", "results", "versions", "config_tasks", "summary_tasks", "summary_general"}
    assert metrics.keys() == sections
    assert metrics["versions"].keys() == metrics["config_tasks"].keys() == metrics["summary_tasks"].keys() == {"natgym:sums|0"}
    assert metrics["summary_general"]["non_truncated"] == 8


async def test_a_baseline_is_compared_task_by_task(tmp_path: Path):
    await played(tmp_path / "before", FakePolicy(["no idea"]))
    _, trajectories = await evaluate(Arena(SUMS, GOLD, FakeBackend()), EvaluationConfig())
    changed = compare(EvaluationConfig(), trajectories, tmp_path / "before")
    assert (changed.tasks, changed.success.mean, changed.reward.mean) == (4, 1.0, 1.0)


async def test_a_full_disk_leaves_whole_samples_and_the_same_command_goes_on(tmp_path: Path):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, before[1]))
    try:
        with pytest.raises(ExceptionGroup) as raised:
            await played(tmp_path / "run", samples=4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert isinstance(raised.value.exceptions[0], UserError)
    assert "can be resumed" in str(raised.value.exceptions[0])
    kept = (tmp_path / "run" / "samples.jsonl").read_text().splitlines()
    assert 0 < len(kept) < 16
    assert [json.loads(line)["success"] for line in kept] == [True] * len(kept)
    _, backend = await played(tmp_path / "run", samples=4)
    assert len(backend.made) == 16 - len(kept)


async def test_a_sample_that_is_none_is_told_by_file_row_and_field(tmp_path: Path):
    await played(tmp_path / "run")
    samples = tmp_path / "run" / "samples.jsonl"
    first, *rest = samples.read_text().splitlines(keepends=True)
    samples.write_text("".join([first, '{"trajectory": {"id": "x"}}\n', *rest]))
    with pytest.raises(BadData, match=r"samples\.jsonl: row 2: trajectory\.task_id: Field required"):
        await played(tmp_path / "run")


async def test_a_folder_of_another_evaluation_is_left_alone(tmp_path: Path):
    (tmp_path / "precious").write_text("x")
    with pytest.raises(ConfigError, match="no evaluation"), EvaluationRun(tmp_path, TOLD):
        pass
    await played(tmp_path / "run")
    with pytest.raises(ConfigError, match="choose another folder"), EvaluationRun(tmp_path / "run", {"policy": "other"}):
        pass


async def test_a_folder_whose_description_is_torn_is_told(tmp_path: Path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ConfigError, match=r"run\.json: is no JSON"), EvaluationRun(tmp_path, TOLD):
        pass


def test_a_folder_is_written_by_one_process_at_a_time(tmp_path: Path):
    with EvaluationRun(tmp_path, TOLD), pytest.raises(ConfigError, match="another process"), EvaluationRun(tmp_path, TOLD):
        pass
    with EvaluationRun(tmp_path, TOLD):
        pass


def test_a_baseline_that_is_none_is_told(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"samples\.jsonl"):
        compare(EvaluationConfig(), [], tmp_path)


class Elements(HTMLParser):
    """The names of the elements of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.names.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


async def test_what_a_policy_says_is_text_in_the_report(tmp_path: Path):
    await played(tmp_path / "run", FakePolicy([ATTACK]))
    page = Elements()
    page.feed((tmp_path / "run" / "report.html").read_text())
    assert ATTACK in page.text
    assert not {"script", "img", "iframe", "link"} & page.names
