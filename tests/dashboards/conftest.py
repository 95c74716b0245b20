"""A real dashboard process and a real Chromium for the tests of pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Error, Page, Request, Response
from serving import Serve, serving

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
REQUIRED = "EXITBITS_REQUIRE_BROWSER"


@pytest.fixture(scope="session")
def browser_type_launch_args() -> dict[str, object]:
    """The system's Chromium, since Playwright's own cannot be downloaded everywhere."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        if os.environ.get(REQUIRED):
            pytest.fail("no Chromium found: install Debian's package chromium")
        pytest.skip("no Chromium: install Debian's package chromium to run the browser tests")
    return {"executable_path": found, "args": list(FLAGS)}


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start ``exitbits serve`` on a store, on any free port; gives the dashboard's address."""
    with serving(tmp_path) as start:
        yield start


@pytest.fixture(scope="session")
def kept_pages(browser: Browser) -> Iterator[list[Page]]:
    """The page that one test leaves to the next, or none before the first.

    A browser that has read the dashboard's scripts once shows a page in half the time that a
    fresh one takes.
    """
    pages: list[Page] = []
    yield pages
    for page in pages:
        page.context.close()


@pytest.fixture
def quiet_page(browser: Browser, kept_pages: list[Page]) -> Iterator[Page]:
    """A page that must log no error and ask no other host for anything.

    Nothing of an earlier test is left in it.
    """
    page = kept_pages.pop() if kept_pages else browser.new_context().new_page()
    page.set_viewport_size({"width": 1440, "height": 900})
    page.mouse.move(0, 0)
    noise: list[str] = []

    def heard(message: ConsoleMessage) -> None:
        if message.type == "error":
            noise.append(message.text)

    def failed(error: Error) -> None:
        noise.append(str(error))

    def asked(request: Request) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "data:", "blob:", "about:")):
            noise.append(f"request to {request.url}")

    def answered(response: Response) -> None:
        if response.status >= 400:
            noise.append(f"{response.status} from {response.url}")

    page.set_default_timeout(60_000)
    ears = {"console": heard, "pageerror": failed, "request": asked, "response": answered}
    for event, ear in ears.items():
        page.on(event, ear)  # type: ignore[call-overload]
    yield page
    for event, ear in ears.items():
        page.remove_listener(event, ear)
    assert noise == []
    page.evaluate("() => { localStorage.clear(); sessionStorage.clear(); }")
    page.goto("{0.scheme}://{0.netloc}/health".format(urlsplit(page.url)))  # where nothing goes on
    page.context.clear_cookies()
    kept_pages.append(page)
