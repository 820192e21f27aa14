"""Searching the web and reading pages of it, by a SearXNG-compatible endpoint or by Exa; off without either.

The search runs on this machine, so a policy could ask it for what only this machine reaches: pages are read from
public addresses only, whatever a name resolves to and wherever a redirect leads.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from pydantic import Field, SecretStr

from core.config import Config
from environments.base import Tool, ToolMistake
from environments.tool_context import ToolContext
from environments.tools.declare import tool

if TYPE_CHECKING:  # slow to import, and most environments never search
    import aiohttp
    from aiohttp.abc import AbstractResolver

ATTEMPTS = 3
MAX_PAGE_BYTES = 4 << 20
MAX_PAGE_CHARACTERS = 20_000
MAX_REDIRECTS = 5
UNSEEN = ("script", "style", "noscript", "template", "svg", "head")
BLOCKS = ("p", "div", "br", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "pre", "section", "article", "table")


class WebConfig(Config):
    """Who searches."""

    searxng_url: str = Field(default="", pattern="^(https?://.*)?$")
    """Address of a SearXNG-compatible endpoint that answers in JSON; it is asked first where both are given."""
    exa_api_key: SecretStr | None = None
    """Best given as the variable NATGYM_EXA_API_KEY."""
    exa_url: str = Field(default="https://api.exa.ai", pattern="^https?://")
    results: int = Field(default=5, gt=0, le=20)
    timeout_seconds: float = Field(default=20.0, gt=0)
    private_addresses: bool = False
    """Also read pages of this machine and of its network."""


def web_tools(config: WebConfig) -> list[Tool]:
    """web_search and web_extract."""
    web = Web(config)
    return [tool(web.web_search, requires=[web.missing]), tool(web.web_extract, requires=[web.missing])]


class Web:
    """The tools of one config."""

    def __init__(self, config: WebConfig) -> None:
        self._config = config

    def missing(self) -> str:
        """What has to be set before there can be a search."""
        if self._config.searxng_url or self._config.exa_api_key:
            return ""
        return "set tools.web.searxng_url to a SearXNG-compatible endpoint, or NATGYM_EXA_API_KEY"

    async def web_search(self, context: ToolContext, query: str) -> str:
        """Search the web. Each result is a title, an address and an excerpt.

        query: what to look for, in a few words
        """
        found = await (self._searxng(query) if self._config.searxng_url else self._exa(query))
        results = [one for one in found if isinstance(one, dict)][: self._config.results]
        lines = [f"{one.get('title') or '(no title)'}\n{one.get('url')}\n{one.get('content') or ''}".strip() for one in results]
        return "\n\n".join(lines) or "nothing was found"

    async def web_extract(self, context: ToolContext, url: str) -> str:
        """Read a web page as text.

        url: its address, with http:// or https://
        """
        kind, data = await self._page(url)
        text = data.decode("utf-8", errors="replace")
        text = page_text(text) if "html" in kind or "<html" in text[:1000].lower() else text
        return text[:MAX_PAGE_CHARACTERS] or "(the page holds no text)"

    async def _searxng(self, query: str) -> list[Any]:
        url = f"{self._config.searxng_url.rstrip('/')}/search"
        return _results(await self._ask("GET", url, params={"q": query, "format": "json"}))

    async def _exa(self, query: str) -> list[Any]:
        assert self._config.exa_api_key
        body = {"query": query, "numResults": self._config.results, "contents": {"text": {"maxCharacters": 500}}}
        headers = {"x-api-key": self._config.exa_api_key.get_secret_value()}
        found = _results(await self._ask("POST", f"{self._config.exa_url}/search", json=body, headers=headers))
        return [{**one, "content": one.get("text")} for one in found if isinstance(one, dict)]

    async def _ask(self, method: str, url: str, **request: Any) -> object:
        """The JSON that a search endpoint answers. What it raises after the last attempt is no doing of the policy."""
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=self._config.timeout_seconds)
        async with aiohttp.ClientSession(timeout=timeout) as http:
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    async with http.request(method, url, raise_for_status=True, **request) as answer:
                        return await answer.json(content_type=None)
                except (aiohttp.ClientError, TimeoutError) as error:
                    known = isinstance(error, aiohttp.ClientResponseError) and error.status < 500 and error.status != 429
                    if known or attempt == ATTEMPTS:
                        raise
                    await asyncio.sleep(0.5 * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    async def _page(self, url: str) -> tuple[str, bytes]:
        """Type and content of a page, redirects followed one by one. Raises ToolMistake for what cannot be read."""
        import aiohttp

        connector = aiohttp.TCPConnector(resolver=_resolver(self._config.private_addresses))
        timeout = aiohttp.ClientTimeout(total=self._config.timeout_seconds)
        try:
            async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
                for _ in range(MAX_REDIRECTS):
                    self._check(url)
                    async with http.get(url, allow_redirects=False) as answer:
                        if answer.status in (301, 302, 303, 307, 308) and "location" in answer.headers:
                            url = urljoin(url, answer.headers["location"])
                            continue
                        return await _content(answer)
        except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as error:
            raise ToolMistake(f"url: cannot be read: {str(error) or type(error).__name__}"[:300]) from error
        raise ToolMistake(f"url: more than {MAX_REDIRECTS} redirects")

    def _check(self, url: str) -> None:
        """Refuse what is no web address, and an address that is written as a number and is not public."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ToolMistake(f"url: expected an address with http:// or https://, found {url[:100]!r}")
        if not self._config.private_addresses and not _may_be_public(parts.hostname):
            raise ToolMistake(f"url: {parts.hostname[:100]} is no public address")


async def _content(answer: "aiohttp.ClientResponse") -> tuple[str, bytes]:
    if answer.status >= 400:
        raise ToolMistake(f"url: the server answered {answer.status} {answer.reason or ''}".rstrip())
    data = await answer.content.read(MAX_PAGE_BYTES)
    while len(data) < MAX_PAGE_BYTES and (chunk := await answer.content.read(MAX_PAGE_BYTES - len(data))):
        data += chunk
    return answer.content_type, data


def _may_be_public(host: str) -> bool:
    """Whether a host is a name, which the resolver looks at, or a public address."""
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return True


def _resolver(private: bool) -> "AbstractResolver":
    """A resolver that gives only addresses that may be connected to: what is checked is what is used."""
    from aiohttp.abc import ResolveResult
    from aiohttp.resolver import ThreadedResolver

    class Resolver(ThreadedResolver):
        async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
            found = await super().resolve(host, port, family)
            allowed = [one for one in found if private or ipaddress.ip_address(one["host"].partition("%")[0]).is_global]
            if not allowed:
                raise OSError(f"{host} is no public address")
            return allowed

    return Resolver()


def _results(answer: object) -> list[Any]:
    results = answer.get("results") if isinstance(answer, Mapping) else None
    if not isinstance(results, list):
        raise ValueError(f"a search endpoint answered no list of results: {str(answer)[:200]!r}")
    return results


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self._unseen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in UNSEEN:
            self._unseen.append(tag)
        elif tag in BLOCKS:
            self.words.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._unseen:
            del self._unseen[self._unseen.index(tag) :]
        elif tag in BLOCKS:
            self.words.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.words.append(data)


def page_text(html: str) -> str:
    """What a reader sees of a page: its text, one block a line, without scripts and styles."""
    page = _Page()
    page.feed(html)
    page.close()
    lines = (" ".join(line.split()) for line in "".join(page.words).split("\n"))
    return "\n".join(line for line in lines if line)
