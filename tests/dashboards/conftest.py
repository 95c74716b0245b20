"""A real dashboard process and a real Chromium for the tests of pages."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import ConsoleMessage, Page, Request, Response
from running import command_env, command_line

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


Serve = Callable[..., str]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start ``exitbits serve`` on a store, on any free port; gives the dashboard's address."""
    started: list[subprocess.Popen[str]] = []

    def start(store: str, **environment: str) -> str:
        process = subprocess.Popen(
            command_line(["serve", "--store", store, "--port", "0"]), cwd=tmp_path, text=True,
            env={**command_env(), **environment}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        started.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "http://" in line, line
        return "http://" + line.split("http://")[1].split(",")[0].strip()

    yield start
    for process in started:
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def quiet_page(page: Page) -> Iterator[Page]:
    """A page that must log no error and ask no other host for anything."""
    noise: list[str] = []

    def heard(message: ConsoleMessage) -> None:
        if message.type == "error":
            noise.append(message.text)

    def asked(request: Request) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "data:", "blob:", "about:")):
            noise.append(f"request to {request.url}")

    def answered(response: Response) -> None:
        if response.status >= 400:
            noise.append(f"{response.status} from {response.url}")

    page.set_viewport_size({"width": 1440, "height": 900})
    page.set_default_timeout(60_000)
    page.on("console", heard)
    page.on("pageerror", lambda error: noise.append(str(error)))
    page.on("request", asked)
    page.on("response", answered)
    yield page
    assert noise == []
