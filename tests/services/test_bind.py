"""Where a service may listen, and who may speak to it."""

import asyncio
import signal
import subprocess
import sys

import httpx
import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from core.errors import ConfigError, PortInUse
from services.bind import BearerAuth, check_bind, claim_socket, free_port, free_ports, make_server, url_of

TOKEN = SecretStr("s3cret")


def hello_app(token: SecretStr | None) -> BearerAuth:
    async def hello(request: Request) -> PlainTextResponse:
        return PlainTextResponse("hello")

    return BearerAuth(Starlette(routes=[Route("/", hello), Route("/health", hello)]), token)


async def statuses(token: SecretStr | None, *requests: tuple[str, dict[str, str]]) -> list[int]:
    sock = claim_socket("127.0.0.1", 0)
    server = make_server(hello_app(token))
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    async with httpx.AsyncClient(base_url=url_of(sock)) as client:
        answers = [(await client.get(path, headers=headers)).status_code for path, headers in requests]
    server.should_exit = True
    await serving
    return answers


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org", ""])
def test_an_address_that_others_reach_needs_a_token(host: str):
    with pytest.raises(ConfigError, match="NATGYM_API_TOKEN"):
        check_bind(host, None)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_no_token(host: str):
    check_bind(host, None)


def test_a_token_opens_any_address():
    check_bind("0.0.0.0", TOKEN)


def test_an_empty_token_is_none():
    with pytest.raises(ConfigError):
        check_bind("0.0.0.0", SecretStr(" "))


async def test_a_wrong_or_missing_token_is_refused_and_the_right_one_passes():
    right, wrong = {"Authorization": "Bearer s3cret"}, {"Authorization": "Bearer s3cre"}
    assert await statuses(TOKEN, ("/", {}), ("/", wrong), ("/", right)) == [401, 401, 200]


async def test_health_is_open():
    assert await statuses(TOKEN, ("/health", {})) == [200]


async def test_without_a_token_only_loopback_names_are_served():
    asked = [("/", {"Host": "evil.example:8000"}), ("/", {"Host": "localhost:1"}), ("/", {"Host": "[::1]:1"})]
    assert await statuses(None, *asked) == [403, 200, 200]


def test_a_taken_port_is_named():
    with claim_socket("127.0.0.1", 0) as taken, pytest.raises(PortInUse, match=str(taken.getsockname()[1])):
        claim_socket("127.0.0.1", taken.getsockname()[1])


def test_the_next_free_port_is_found():
    with claim_socket("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert port < free_port("127.0.0.1", port) <= port + 50


def test_services_that_find_their_ports_taken_get_different_ones():
    with claim_socket("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        one, other = free_ports("127.0.0.1", [port, port])
        assert len({port, one, other}) == 3


def test_a_foreign_address_is_a_configuration_error():
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1"):
        claim_socket("192.0.2.1", 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_with_exit_code_zero(number: signal.Signals):
    code = (
        "from starlette.applications import Starlette\n"
        "from services.bind import claim_socket, run_server\n"
        "sock = claim_socket('127.0.0.1', 0)\n"
        "print(sock.getsockname()[1], flush=True)\n"
        "run_server(Starlette(), sock)\n"
        "print('ended')\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        httpx.get(f"http://127.0.0.1:{port}/")
        process.send_signal(number)
        assert process.stdout.read() == "ended\n"
    assert process.returncode == 0
