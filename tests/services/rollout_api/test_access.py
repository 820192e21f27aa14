"""Who is let in with which token, and that nobody is without one."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.routing import Route

from core.clock import SystemClock
from core.errors import ConfigError
from services.bind import OPEN_PATHS
from services.rollout_api.access import Role, Tokens, roles_for
from services.rollout_api.app import DirectPosts, create_app
from services.rollout_api.base import Limits
from services.rollout_api.queue import GroupQueue
from services.rollout_api.sqlite import SqliteFile
from services.rollout_api.store import LedgerStore
from tests.services.rollout_api.harness import SERVE, raw
from tests.services.rollout_api.stock_atropos import GIVEN, ROOT

TOKENS = Tokens(*(SecretStr(f"secret of {role}") for role in Role))
ALL = {Role.ENVIRONMENT, Role.TRAINER, Role.READER}
MAY = {
    ("GET", "/v1/status"): ALL,
    ("GET", "/metrics"): ALL,
    ("GET", "/status"): ALL,
    ("GET", "/info"): ALL,
    ("GET", "/wandb_info"): ALL,
    ("GET", "/"): ALL,
    ("GET", "/v1/groups"): {Role.TRAINER, Role.READER},
    ("GET", "/v1/groups/a/b"): {Role.TRAINER, Role.READER},
    ("GET", "/latest_example"): {Role.TRAINER, Role.READER},
    ("PUT", "/v1/environments/sums"): {Role.ENVIRONMENT},
    ("GET", "/v1/demand"): {Role.ENVIRONMENT},
    ("POST", "/v1/groups"): {Role.ENVIRONMENT},
    ("POST", "/register-env"): {Role.ENVIRONMENT},
    ("POST", "/disconnect-env"): {Role.ENVIRONMENT},
    ("POST", "/scored_data"): {Role.ENVIRONMENT},
    ("POST", "/scored_data_list"): {Role.ENVIRONMENT},
    ("GET", "/status-env"): {Role.ENVIRONMENT},
    ("POST", "/v1/run"): {Role.TRAINER},
    ("POST", "/v1/run/status"): {Role.TRAINER},
    ("POST", "/v1/batches"): {Role.TRAINER},
    ("POST", "/v1/batches/b/ack"): {Role.TRAINER},
    ("POST", "/v1/batches/b/return"): {Role.TRAINER},
    ("POST", "/register"): {Role.TRAINER},
    ("GET", "/batch"): {Role.TRAINER},
    ("GET", "/reset_data"): {Role.TRAINER},
    ("DELETE", "/v1/run"): set(),
    ("GET", "/v1/nothing"): set(),
}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def secret(role: Role) -> str:
    token = TOKENS.for_role(role)
    assert token is not None
    return token.get_secret_value()


@pytest.mark.parametrize("role", Role)
async def test_a_token_opens_what_its_role_needs_and_nothing_else(tmp_path: Path, role: Role):
    async with raw(tmp_path / "q", tokens=TOKENS) as http:
        answers = {
            (method, path): (await http.request(method, path, headers=bearer(secret(role)))).status_code for method, path in MAY
        }
    let_in = {route for route, status in answers.items() if status not in (401, 403)}
    assert let_in == {route for route, roles in MAY.items() if role in roles or role is Role.API}


@pytest.mark.parametrize(
    "headers", [{}, bearer("wrong"), {"Authorization": "Bearer"}, {"Authorization": secret(Role.API)}, bearer("secret of apj")]
)
async def test_without_a_known_token_nothing_but_health_is_answered(tmp_path: Path, headers: dict[str, str]):
    async with raw(tmp_path / "q", tokens=TOKENS) as http:
        for method, path in MAY:
            answer = await http.request(method, path, headers=headers | {"X-Request-Id": "mine"})
            assert (answer.status_code, answer.json()["request_id"]) == (401, "mine")
        assert {(await http.get(path, headers=headers)).status_code for path in OPEN_PATHS} == {200}


async def test_every_route_has_a_role(tmp_path: Path):
    store = LedgerStore(SqliteFile(tmp_path / "q", min_free_bytes=0), Limits(1, 1))
    async with GroupQueue(store, SystemClock()) as queue:
        app = create_app(queue, clock=SystemClock(), tokens=TOKENS, max_body_bytes=1).app
    assert isinstance(app, DirectPosts)
    app = app.app
    assert isinstance(app, Starlette)
    routes = [route for route in app.routes if isinstance(route, Route) and route.path not in OPEN_PATHS]
    assert len(routes) > 20
    nobody = [(route.path, method) for route in routes for method in route.methods or () if not roles_for(method, route.path)]
    assert not nobody


async def test_one_secret_may_be_for_two_roles(tmp_path: Path):
    both = Tokens(environment=SecretStr("one"), trainer=SecretStr("one"))
    async with raw(tmp_path / "q", tokens=both) as http:
        assert (await http.get("/batch", headers=bearer("one"))).status_code == 200
        assert (await http.get("/status-env", headers=bearer("one"))).status_code == 415  # its body is missing
        assert (await http.get("/v1/groups", headers=bearer("one"))).status_code == 200


@pytest.mark.parametrize("tokens", [Tokens(), Tokens(api=SecretStr(" ")), Tokens(trainer=SecretStr(""))])
def test_other_machines_are_served_with_a_token_only(tokens: Tokens):
    with pytest.raises(ConfigError, match="NATGYM_API_TOKEN"):
        tokens.check_bind("0.0.0.0")
    tokens.check_bind("127.0.0.1")
    Tokens(reader=SecretStr("s")).check_bind("0.0.0.0")


async def test_a_role_without_a_token_of_its_own_sends_the_one_for_everything():
    tokens = Tokens(api=SecretStr("all"), trainer=SecretStr("mine"))
    sent = [tokens.for_role(role) for role in (Role.TRAINER, Role.READER)]
    assert [token and token.get_secret_value() for token in sent] == ["mine", "all"]


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_a_page_of_another_site_changes_nothing(tmp_path: Path, site: str):
    async with raw(tmp_path / "q") as http:
        answer = await http.get("/reset_data", headers={"Sec-Fetch-Site": site})
        assert (answer.status_code, (await http.get("/reset_data")).text) == (403, "Reset successful")


async def test_a_host_that_was_rebound_is_refused(tmp_path: Path):
    async with raw(tmp_path / "q") as http:
        answer = await http.get("/status", headers={"Host": "evil.example:8000"})
    assert answer.status_code == 403
    assert "not this machine" in answer.json()["error"]


async def test_no_origin_is_told_that_it_may_read(tmp_path: Path):
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    async with raw(tmp_path / "q") as http:
        answers = [await http.request(method, "/batch", headers=asked) for method in ("OPTIONS", "GET")]
    assert not [name for answer in answers for name in answer.headers if name.startswith("access-control")]


async def test_asking_for_the_head_takes_no_batch_and_resets_nothing(tmp_path: Path):
    async with raw(tmp_path / "q") as http:
        assert {(await http.head(path)).status_code for path in ("/batch", "/reset_data")} == {405}


@pytest.mark.parametrize(
    ("address", "kind", "problem"),
    [
        ("0.0.0.0", socket.SOCK_STREAM, "'0.0.0.0' can be reached from other machines"),
        ("127.0.0.1", socket.SOCK_DGRAM, "descriptor 3 is no listening socket"),
    ],
)
def test_a_socket_that_is_handed_over_is_held_to_the_same_rules(
    tmp_path: Path, address: str, kind: socket.SocketKind, problem: str
):
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind((address, 0))
        if kind is socket.SOCK_STREAM:
            sock.listen()
        config = json.dumps({"database": str(tmp_path / "q"), "min_free_mib": 0})
        command = ["bash", "-c", GIVEN, "bash", str(sock.fileno()), sys.executable, "-c", SERVE, config]
        done = subprocess.run(command, pass_fds=[sock.fileno()], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode != 0
    assert problem in done.stderr
