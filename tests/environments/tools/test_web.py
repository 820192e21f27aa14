"""Searching by either kind of endpoint, and pages that only this machine reaches stay unread."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import aiohttp
import pytest
from aiohttp import web
from pydantic import SecretStr

from environments.base import ToolMistake
from environments.tool_context import ToolContext
from environments.tools.web import Web, WebConfig, page_text
from tests.fakes import FakeSandbox

CONTEXT = ToolContext(FakeSandbox(0, lambda argv: pytest.fail("nothing is run in the sandbox")))
PAGE = (
    "<html><head><title>t</title><style>p{}</style></head><body><h1>Rust</h1><p>old &amp; red<script>evil()</script></p></body>"
)


@dataclass
class Internet:
    """A server that is a SearXNG, an Exa and a page at once, and remembers what it was asked."""

    url: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)
    refusals: int = 0

    async def search(self, request: web.Request) -> web.Response:
        self.asked.append((request.query["q"], request.query["format"]))
        if self.refusals:
            self.refusals -= 1
            return web.Response(status=503)
        results = [{"title": f"r{n}", "url": f"http://x/{n}", "content": "text"} for n in range(9)]
        return web.json_response({"results": [*results, "odd"]})

    async def exa(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked.append((body["query"], request.headers["x-api-key"]))
        return web.json_response({"results": [{"title": "e", "url": "http://e", "text": "found"}]})

    async def page(self, request: web.Request) -> web.Response:
        return web.Response(text=PAGE, content_type="text/html")

    async def away(self, request: web.Request) -> web.Response:
        raise web.HTTPFound(request.query.get("to", "/away"))


@pytest.fixture
async def internet() -> AsyncIterator[Internet]:
    found = Internet()
    app = web.Application()
    app.router.add_get("/search", found.search)
    app.router.add_post("/search", found.exa)
    app.router.add_get("/page", found.page)
    app.router.add_get("/away", found.away)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    await runner.cleanup()


async def test_a_searxng_endpoint_is_asked_in_json_and_as_many_results_are_shown_as_wanted(internet: Internet):
    told = await Web(WebConfig(searxng_url=internet.url, results=2)).web_search(CONTEXT, query="iron oxide")
    assert told == "r0\nhttp://x/0\ntext\n\nr1\nhttp://x/1\ntext"
    assert internet.asked == [("iron oxide", "json")]


async def test_exa_is_asked_with_its_key(internet: Internet):
    config = WebConfig(exa_api_key=SecretStr("secret"), exa_url=internet.url)
    assert await Web(config).web_search(CONTEXT, query="rust") == "e\nhttp://e\nfound"
    assert internet.asked == [("rust", "secret")]
    assert "secret" not in repr(config)


async def test_an_endpoint_that_fails_is_asked_again_and_then_it_is_no_doing_of_the_policy(internet: Internet):
    internet.refusals = 1
    assert await Web(WebConfig(searxng_url=internet.url)).web_search(CONTEXT, query="a")
    internet.refusals = 3
    with pytest.raises(aiohttp.ClientResponseError):
        await Web(WebConfig(searxng_url=internet.url)).web_search(CONTEXT, query="b")
    assert [query for query, _ in internet.asked] == ["a", "a", "b", "b", "b"]


async def test_a_page_is_read_as_text_also_behind_a_redirect(internet: Internet):
    reader = Web(WebConfig(private_addresses=True))
    assert await reader.web_extract(CONTEXT, url=f"{internet.url}/page") == "Rust\nold & red"
    assert await reader.web_extract(CONTEXT, url=f"{internet.url}/away?to=/page") == "Rust\nold & red"
    with pytest.raises(ToolMistake, match="the server answered 404"):
        await reader.web_extract(CONTEXT, url=f"{internet.url}/none")
    with pytest.raises(ToolMistake, match="more than 5 redirects"):
        await reader.web_extract(CONTEXT, url=f"{internet.url}/away")


@pytest.mark.parametrize(
    "address",
    [
        lambda url: f"{url}/page",
        lambda url: f"{url}/page".replace("127.0.0.1", "localhost"),
        lambda url: f"{url}/page".replace("127.0.0.1", "[::ffff:127.0.0.1]"),
        lambda url: f"{url}/page".replace("127.0.0.1", "2130706433"),
        lambda url: f"{url}/page".replace("127.0.0.1", "0x7f000001"),
        lambda url: f"{url}/page".replace("127.0.0.1", "127.1"),
        lambda url: "http://169.254.169.254/latest/meta-data",
        lambda url: "http://[::1]/",
        lambda url: "file:///etc/passwd",
        lambda url: "gopher://x",
        lambda url: "nonsense",
    ],
)
async def test_what_only_this_machine_reaches_is_not_read(internet: Internet, address: Callable[[str], str]):
    with pytest.raises(ToolMistake, match="url: "):
        await Web(WebConfig(searxng_url=internet.url)).web_extract(CONTEXT, url=address(internet.url))


def test_an_unclosed_page_is_read_as_far_as_it_goes():
    assert page_text("<div>one<script>x</div><p>two") == "one"
    assert page_text("<p>a<br>b</p><svg><text>no</text></svg><p>c") == "a\nb\nc"
