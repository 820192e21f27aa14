"""What a run reports can be read back by the tools that it is for."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import UnknownName
from trainer.metrics import Seconds, StepRecord
from trainer.reporters import REPORTERS, scalars

LIMIT_SECONDS = 120
RECORD = StepRecord(
    step=1, policy_version=1, time=1_700_000_000.0, groups=2, rollouts=4, rollouts_trained=3, dropped={"stale": 1}, loss=0.5,
    kl=0.0, kl_k1=0.0, entropy=1.5, grad_norm=0.25, clipped_fraction=0.0, dlogp_mean=1e-6, dlogp_max=1e-5, tokens=64,
    row_tokens=128, reward_mean=None, seconds=Seconds(train=2.0),
)  # fmt: skip


def test_every_number_has_a_name_and_what_was_not_measured_is_left_out():
    found = scalars(RECORD)
    assert (found["loss"], found["dropped/stale"], found["seconds/train"]) == (0.5, 1.0, 2.0)
    assert "reward_mean" not in found


def test_tensorboard_reads_the_steps_and_not_those_that_were_made_again(tmp_path: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for done, losses in ((0, (1.0, 2.0, 3.0)), (2, (4.0,))):  # the second process goes on after step 2
        reporter = REPORTERS.load("tensorboard")(tmp_path, "run-1", done)
        for number, loss in enumerate(losses, start=done + 1):
            reporter.write(RECORD.model_copy(update={"step": number, "loss": loss}))
        reporter.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(one.step, one.value) for one in events.Scalars("loss")] == [(1, 1.0), (2, 2.0), (3, 4.0)]


REPORT = """
import sys
from pathlib import Path
from trainer.metrics import StepRecord
from trainer.reporters import REPORTERS

reporter = REPORTERS.load("wandb")(Path(sys.argv[1]), "run-1", 0)
reporter.write(StepRecord.model_validate_json(sys.argv[2]))
reporter.close()
"""


def test_wandb_keeps_a_run_offline_and_leaves_nothing_else(tmp_path: Path):
    pytest.importorskip("wandb")
    out, temporary = tmp_path / "out", tmp_path / "tmp"
    temporary.mkdir()
    record = RECORD.model_copy(update={"loss": 0.015625}).model_dump_json()
    with socket.create_server(("127.0.0.1", 0)) as service:  # stands where W&B's own servers would be
        address = f"http://127.0.0.1:{service.getsockname()[1]}"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        environment |= {"WANDB_BASE_URL": address, "TMPDIR": str(temporary)}
        command = [sys.executable, "-c", REPORT, str(out), record]
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=LIMIT_SECONDS)
        service.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody called
            service.accept()
    (file,) = (out / "wandb").glob("offline-run-*-run-1/run-run-1.wandb")
    written = file.read_bytes()  # its own framing around protobuf, in which names and values are text
    assert b"dropped/stale" in written
    assert b"0.015625" in written
    assert list(temporary.iterdir()) == []


def test_an_unknown_reporter_is_refused_with_the_known_ones():
    with pytest.raises(UnknownName, match="tensorboard, wandb"):
        REPORTERS.load("tensorbord")
