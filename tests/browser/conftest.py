"""A browser, a server, and pages that fail a test if they report an error (tox -e browser).

Without playwright these tests are not collected.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import pytest
from browser_server import WIDE, Server
from chromium import HELP, find

if find_spec("playwright") is None:
    collect_ignore_glob = ["test_*.py"]

PATIENCE_MS = 60_000
FLAGS = ["--no-sandbox", "--disable-background-networking", "--disable-gpu"]

# What Chromium says itself when a server or the network is away.
EXPECTED = ("Failed to load resource", "WebSocket connection to", "net::ERR_")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, without a window."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE_MS)
    path = find()
    assert path is not None, HELP
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[Server]:
    """A server that all tests share which do not kill it."""
    server = Server(log=tmp_path_factory.mktemp("server") / "log")
    yield server
    server.kill(signal.SIGTERM)


@pytest.fixture
def start_server(tmp_path) -> Iterator[Callable[..., Server]]:
    """Starts servers that the test may kill."""
    started = []

    def start(*flags: str) -> Server:
        started.append(Server(*flags, log=tmp_path / "log"))
        return started[-1]

    yield start
    for server in started:
        server.kill()


@pytest.fixture
def new_context(browser) -> Iterator[Callable[..., Any]]:
    """Makes contexts, a browser profile each, in whose pages nothing may go wrong."""
    with contexts_of(browser) as make:
        yield make


@contextmanager
def contexts_of(browser) -> Iterator[Callable[..., Any]]:
    """As ``new_context``, of any browser."""
    contexts, errors = [], []

    def note(message):
        if message.type in ("error", "warning") and not any(e in message.text for e in EXPECTED):
            errors.append(message.text)

    def watch(page):
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", note)
        page.on("dialog", lambda dialog: (errors.append(dialog.message), dialog.dismiss()))

    def make(**options) -> Any:
        contexts.append(browser.new_context(**{"viewport": WIDE, **options}))
        contexts[-1].set_default_timeout(PATIENCE_MS)
        contexts[-1].on("page", watch)
        return contexts[-1]

    try:
        yield make
    finally:
        for context in contexts:
            context.close()
    assert errors == []


@pytest.fixture
def context(new_context) -> Any:
    """One of them."""
    return new_context()


@pytest.fixture
def open_page(context) -> Callable[..., Any]:
    """Opens the page of a server, and waits until it is live."""

    def open_page(server: Server, context: Any = context) -> Any:
        page = context.new_page()
        page.goto(server.url)
        page.wait_for_selector("body[data-state=live]")
        return page

    return open_page
