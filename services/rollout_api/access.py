"""Who may ask the rollout API for what: bearer tokens for environments, trainers and readers, and none on loopback.

Without a token only this machine is served, everything. With one, every request but /health and /ready names one of
them, from wherever it comes: a proxy on this machine makes the whole world look like loopback.
"""

import re
import secrets
from enum import StrEnum
from typing import NamedTuple, Self

from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from core.errors import ConfigError
from core.settings import Settings
from services.bind import OPEN_PATHS, host_is_loopback, is_loopback
from services.rollout_api.answers import error_answer


class Role(StrEnum):
    """What a token is for; `api` is for everything."""

    API = "api"
    ENVIRONMENT = "environment"
    TRAINER = "trainer"
    READER = "reader"


ENVIRONMENT, TRAINER, READER = frozenset({Role.ENVIRONMENT}), frozenset({Role.TRAINER}), frozenset({Role.READER})

RULES: tuple[tuple[str, str, frozenset[Role]], ...] = (
    ("PUT", r"/v1/environments/.+", ENVIRONMENT),
    ("GET", r"/v1/demand", ENVIRONMENT),
    ("POST", r"/v1/groups", ENVIRONMENT),
    ("POST", r"/v1/(batches|run)(/.*)?", TRAINER),
    ("GET", r"/v1/(groups|events)(/.*)?|/latest_example", TRAINER | READER),
    ("GET", r"/v1/status|/metrics|/status|/info|/wandb_info|/v1/openapi\.json|/", ENVIRONMENT | TRAINER | READER),
    ("POST", r"/(register-env|disconnect-env|scored_data|scored_data_list)", ENVIRONMENT),
    ("GET", r"/status-env", ENVIRONMENT),
    ("POST", r"/register", TRAINER),
    ("GET", r"/(batch|reset_data)", TRAINER),
)
"""Method, path and the roles that may; what no rule names is for the token of everything only."""


class Tokens(NamedTuple):
    """The secrets that are set, by role. Two roles may have the same one."""

    api: SecretStr | None = None
    environment: SecretStr | None = None
    trainer: SecretStr | None = None
    reader: SecretStr | None = None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """As `.env` and the process environment say."""
        return cls(settings.api_token, settings.environment_token, settings.trainer_token, settings.reader_token)

    def for_role(self, role: Role) -> SecretStr | None:
        """What a client of that role sends: its own token, else the one for everything."""
        return getattr(self, role.value) or self.api

    def check_bind(self, host: str) -> None:
        """Refuse an address that others can reach while there is no token. Raises ConfigError."""
        if not is_loopback(host) and not self.secrets():
            raise ConfigError(
                f"host {host!r} can be reached from other machines: set NATGYM_API_TOKEN, or tokens for each role"
                " (NATGYM_ENVIRONMENT_TOKEN, NATGYM_TRAINER_TOKEN, NATGYM_READER_TOKEN), or listen on 127.0.0.1"
            )

    def secrets(self) -> list[tuple[Role, bytes]]:
        """Role and value of each token that is set."""
        named = [(role, token.get_secret_value().strip().encode()) for role, token in zip(Role, self, strict=True) if token]
        return [(role, secret) for role, secret in named if secret]


class Access:
    """ASGI middleware: 401 without a token that is known, 403 for a token of another role.

    Without any token a request has to name a loopback host, so that a web page whose name was rebound to 127.0.0.1 is
    refused. A browser that sends a request for another site's page is refused always.
    """

    def __init__(self, app: ASGIApp, tokens: Tokens) -> None:
        self.app, self._secrets = app, tokens.secrets()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it here."""
        if scope["type"] == "lifespan" or scope["path"] in OPEN_PATHS:
            return await self.app(scope, receive, send)
        refusal = self._refusal(Request(scope))
        return await (refusal or self.app)(scope, receive, send)

    def _refusal(self, request: Request) -> JSONResponse | None:
        if request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            return error_answer(request, 403, "a web page of another site asked for this")
        if not self._secrets:
            host = request.headers.get("host", "")
            if host_is_loopback(host):
                return None
            return error_answer(request, 403, f"host {host[:100]!r} is not this machine; set a token to serve others")
        roles = self._roles(request.headers.get("authorization", ""))
        if not roles:
            wanted = "a bearer token is needed: Authorization: Bearer <token>"
            return error_answer(request, 401, wanted, {"WWW-Authenticate": "Bearer"})
        allowed = roles_for(request.method, request.url.path)
        if Role.API in roles or roles & allowed:
            return None
        names = ", ".join(sorted(allowed)) or Role.API.value
        return error_answer(request, 403, f"{request.method} {request.url.path[:200]} takes a token of: {names}")

    def _roles(self, authorization: str) -> set[Role]:
        """The roles of a token. Every secret is compared, and in the same time whatever they have in common."""
        scheme, _, token = authorization.partition(" ")
        found = token.encode("latin-1")  # how the header came in, byte for byte
        same = {role for role, secret in self._secrets if secrets.compare_digest(found, secret)}
        return same if scheme.lower() == "bearer" else set()


def roles_for(method: str, path: str) -> frozenset[Role]:
    """The roles that may send such a request, besides the one that may everything."""
    method = "GET" if method == "HEAD" else method
    return next((roles for verb, pattern, roles in RULES if verb == method and re.fullmatch(pattern, path)), frozenset())
