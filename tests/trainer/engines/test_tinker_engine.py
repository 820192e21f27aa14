"""The tinker engine against services that refuse, pause, or say nothing; and what it asks of one. No server is needed."""

import ast
import json
import math
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from core.errors import ConfigError, TrainingError
from core.settings import child_environ, read_secret
from tests.services.small_policy import ROOT, natgym
from tests.trainer.toy import random_samples
from trainer.algorithms.base import Algorithm
from trainer.algorithms.cispo import CISPO
from trainer.algorithms.grpo import GRPO
from trainer.algorithms.gspo import GSPO
from trainer.algorithms.reinforce import Reinforce
from trainer.algorithms.rloo import RLOO
from trainer.algorithms.sft import SFT
from trainer.batch import Batch, collate
from trainer.engines.tinker_engine import TinkerEngine, TinkerEngineConfig
from trainer.engines.tinker_losses import DERIVATIVE, derivative_rows, derived, rows_for, scales, service_loss
from trainer.engines.tinker_service import Row

KEY = "tml-a-key-that-nobody-may-read"
SOON, PATIENT = 2.0, 60.0
HEALTH = "/api/v1/healthz"


class Ended(NamedTuple):
    """How an attempt to open a service ended."""

    error: str
    message: str
    seconds: float


@contextmanager
def faulty_service(status: int | None) -> Iterator[str]:
    """Healthy by its own account; everything else it answers with that status, or never."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            found = 200 if self.path == HEALTH else status
            if found is None:
                over.wait(PATIENT)
                return
            self.send_response(found)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(b'{"status":"ok"}' if found == 200 else b'{"detail":"no"}')

        do_GET = do_POST = answer  # noqa: N815 named by http.server

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 named by http.server
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        over.set()
        server.shutdown()
        serving.join()
        server.server_close()


@pytest.fixture(scope="module")
def attempts() -> dict[str, Ended]:
    with (
        faulty_service(401) as refusing,
        faulty_service(402) as unpaid,
        faulty_service(429) as limiting,
        faulty_service(None) as silent,
        socket.create_server(("127.0.0.1", 0)) as deaf,
    ):
        cases: dict[str, tuple[str, str | None, float]] = {
            "401": (refusing, KEY, PATIENT),
            "402": (unpaid, KEY, PATIENT),
            "429": (limiting, KEY, SOON),
            "silent": (silent, KEY, SOON),
            "not a key": (silent, "sk-a-key-that-nobody-may-read", PATIENT),
            "no key": (silent, None, PATIENT),
            "deaf": (f"http://127.0.0.1:{deaf.getsockname()[1]}", KEY, PATIENT),
        }
        # a module, not a file: what a file lies beside would be imported in place of packages of the same name
        command = [sys.executable, "-m", "tests.trainer.engines.open_tinker", json.dumps(list(cases.values()))]
        environ = child_environ(PYTHONPATH=str(ROOT), TINKER_TELEMETRY="0")
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environ, check=False)
    assert done.returncode == 0, done.stderr
    assert KEY not in done.stderr
    return dict(zip(cases, (Ended(*one) for one in json.loads(done.stdout)), strict=True))


def test_a_refused_key_is_a_mistake_of_the_user_that_names_the_variable(attempts: dict[str, Ended]):
    ended = attempts["401"]
    assert (ended.error, "refused the key in TINKER_API_KEY (401)" in ended.message) == ("ConfigError", True)


def test_no_message_holds_the_key(attempts: dict[str, Ended]):
    assert not any("nobody-may-read" in ended.message for ended in attempts.values())


@pytest.mark.parametrize("case", ["429", "silent"])
def test_who_pauses_or_says_nothing_is_given_up_at_the_deadline(attempts: dict[str, Ended], case: str):
    ended = attempts[case]
    assert ended.error == "TrainingError"
    assert f"no way in within {SOON:g} seconds; the server is up" in ended.message
    assert ended.seconds >= SOON


def test_an_unpaid_bill_is_told(attempts: dict[str, Ended]):
    ended = attempts["402"]
    assert (ended.error, "wants its billing settled (402)" in ended.message) == ("ConfigError", True)


def test_a_port_where_nobody_speaks_is_known_before_the_sdk_tries_for_minutes(attempts: dict[str, Ended]):
    ended = attempts["deaf"]
    assert (ended.error, "no Tinker service at" in ended.message) == ("TrainingError", True)


@pytest.mark.parametrize("case", ["no key", "not a key"])
def test_a_key_that_cannot_be_one_is_refused_here(attempts: dict[str, Ended], case: str):
    assert (attempts[case].error, "TINKER_API_KEY" in attempts[case].message) == ("ConfigError", True)


def test_a_refused_key_ends_the_command_with_one_line_and_code_2(tmp_path: Path):
    with faulty_service(401) as url:
        config = str(ROOT / "services" / "configs" / "tinker.toml")
        settings = ("--config", config, "--set", f"trainer.engine.base_url={url}")
        arguments = (*settings, "--out", str(tmp_path / "run"), "--port", "0")
        done = natgym("serve", "trainer", *arguments, TINKER_API_KEY=KEY, TINKER_TELEMETRY="0")
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"natgym: {url} refused the key in TINKER_API_KEY (401)")
    assert "Traceback" not in done.stderr
    assert KEY not in done.stdout + done.stderr


def test_the_key_of_the_process_wins_over_that_of_the_file(tmp_path: Path):
    file = tmp_path / ".env"
    file.write_text("TINKER_API_KEY=tml-file\n", encoding="utf-8")
    found = [read_secret("TINKER_API_KEY", environ, file) for environ in ({}, {"TINKER_API_KEY": "tml-process"})]
    assert [one.get_secret_value() for one in found if one is not None] == ["tml-file", "tml-process"]
    assert read_secret("TINKER_API_KEY", {}, tmp_path / "none") is None


def test_a_reference_model_is_refused(toy_model: Path):
    with pytest.raises(ConfigError, match=r"algorithm\.kl = 0"):
        TinkerEngine(toy_model, TinkerEngineConfig(), with_reference=True)


def test_a_directory_without_the_base_models_config_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"config\.json"):
        TinkerEngine(tmp_path, TinkerEngineConfig())


def test_one_module_knows_the_sdk():
    def imported(file: Path) -> set[str]:
        nodes = [*ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
        names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
        return {name.partition(".")[0] for name in names}

    files = [file for package in ("core", "environments", "trainer", "services") for file in (ROOT / package).rglob("*.py")]
    assert [file.name for file in files if "tinker" in imported(file)] == ["tinker_service.py"]


def batch_with_old_logprobs() -> Batch:
    return collate(random_samples())


def test_rows_hold_each_token_with_the_one_before_it_and_count_completion_tokens_alone():
    batch = batch_with_old_logprobs()
    loss = service_loss(GRPO().loss)
    assert loss is not None
    rows = rows_for(batch, loss, 50, scales(batch, means=False))
    for row, length in enumerate(batch.lengths.tolist()):
        ids, mask = batch.token_ids[row, :length], batch.loss_mask[row, 1:length]
        assert (rows[row].inputs, rows[row].targets) == (ids[:-1].tolist(), ids[1:].tolist())
        counted = torch.tensor(rows[row].fields["advantages"])
        torch.testing.assert_close(counted, batch.advantages[row, 1:length] * mask / 50)
        torch.testing.assert_close(torch.tensor(rows[row].fields["logprobs"]), batch.logprobs[row, 1:length] * mask)


def test_a_services_ppo_is_told_our_clips_as_bounds_of_the_ratio():
    told = service_loss(GRPO().loss)
    assert told is not None
    assert told.name == "ppo"
    assert told.settings == {"clip_low_threshold": pytest.approx(0.8), "clip_high_threshold": pytest.approx(1.28)}


def test_a_loss_that_the_service_does_not_have_is_computed_here():
    assert service_loss(GSPO().loss) is None
    assert service_loss(lambda predictions, batch, tokens: GRPO().loss(predictions, batch, tokens)) is None


def service_formula(name: str, row: Row, settings: dict[str, float], logprobs: torch.Tensor) -> torch.Tensor:
    """The losses of a Tinker service, written from its documentation."""
    values = {field: torch.tensor(numbers, dtype=torch.float64) for field, numbers in row.fields.items()}
    if name == "cross_entropy":
        return -(values["weights"] * logprobs).sum()
    ratio = (logprobs - values["logprobs"]).exp()
    if name == "importance_sampling":
        return -(ratio * values["advantages"]).sum()
    bounded = ratio.clamp(settings["clip_low_threshold"], settings["clip_high_threshold"])
    if name == "cispo":
        return -(bounded.detach() * values["advantages"] * logprobs).sum()
    return -torch.minimum(ratio * values["advantages"], bounded * values["advantages"]).sum()


@pytest.mark.parametrize("algorithm", [GRPO(), CISPO(), Reinforce(), RLOO(), SFT()], ids=lambda one: one.config.name)
def test_a_services_loss_has_the_gradient_of_ours(algorithm: Algorithm):
    batch = algorithm.prepare(batch_with_old_logprobs(), random_samples(), None)
    told = service_loss(algorithm.loss)
    assert told is not None
    generator = torch.Generator().manual_seed(1)
    # ratios between 0.61 and 1.65: on both sides of the clips, below the bounds that a service does not have
    moved = batch.logprobs + (torch.rand(batch.logprobs.shape, generator=generator) - 0.5)
    seen = [moved[row, 1:length] for row, length in enumerate(batch.lengths.tolist())]
    _, ours = derived(batch, algorithm.loss, batch.tokens, [one.tolist() for one in seen])
    rows = rows_for(batch, told, batch.tokens, scales(batch, means=False))
    for row, (one, logprobs) in enumerate(zip(rows, seen, strict=True)):
        leaf = logprobs.double().requires_grad_()
        service_formula(told.name, one, dict(told.settings), leaf).backward()
        assert leaf.grad is not None
        # float32 against float64
        torch.testing.assert_close(-leaf.grad.float(), ours[row, 1 : len(leaf) + 1], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("means", [False, True])
def test_a_loss_of_ours_goes_back_as_advantages_at_the_ratio_one(means: bool):
    batch, loss = batch_with_old_logprobs(), GSPO().loss
    seen = [batch.logprobs[row, 1:length] for row, length in enumerate(batch.lengths.tolist())]
    _, ours = derived(batch, loss, batch.tokens, [one.tolist() for one in seen])
    rows = derivative_rows(batch, [one.tolist() for one in seen], ours, scales(batch, means=means))
    for row, (one, logprobs) in enumerate(zip(rows, seen, strict=True)):
        leaf = logprobs.double().requires_grad_()
        value = service_formula(DERIVATIVE.name, one, {}, leaf)
        (value / (len(leaf) * len(rows)) if means else value).backward()
        assert leaf.grad is not None
        # float32 against float64
        torch.testing.assert_close(-leaf.grad.float(), ours[row, 1 : len(leaf) + 1], atol=1e-6, rtol=1e-5)


def test_a_logprob_that_is_no_number_is_refused():
    batch = batch_with_old_logprobs()
    answered = [[math.nan] * (length - 1) for length in batch.lengths.tolist()]
    with pytest.raises(TrainingError, match="not finite"):
        derived(batch, GRPO().loss, batch.tokens, answered)
