"""A real browser before a real `genlock admin`, which looks at three real worker processes. One of each for all tests of this folder.

A page that logs an error, breaks its content security policy or asks another host for anything fails its test.
"""

import mimetypes
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from chaos.ports import Port
from genlock.coordinator import Fleet
from genlock.coordinator.admin.application import HEADERS
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect, sync_playwright
from safetensors.torch import save_file

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "coordinator" / "admin" / "page"
OPERATOR, VIEWER = "operator-of-the-browser-tests", "viewer-of-the-browser-tests"
#: Seconds: no worker is behind its lease when a busy machine pauses for a second or two.
LEASE_S = 3.0
WORKERS = 3
#: Milliseconds in which the page has to show something; two busy cores have to run browser, admin and workers meanwhile.
SHOWN_MS = 15_000

expect.set_options(timeout=SHOWN_MS)


@dataclass
class Desk:
    """What a test works with. `hold`: while that file exists, loads wait; `start_admin`, `end_admin`: it is there at the beginning."""

    url: str
    fleet: Fleet
    hold: Path
    folder: Path
    start_admin: Callable[[], None]
    end_admin: Callable[[], None]

    def checkpoint(self, value: float) -> Path:
        """The trainer's file, always under the same path."""
        path = self.folder / "model.safetensors"
        save_file({"weight": torch.ones(4), "bias": torch.full((4,), value)}, path)
        return path

    def publish(self, value: float, **more: Any) -> int:
        """A new generation of `digits`; its number."""
        flip = self.fleet.publish("digits", self.checkpoint(value), author="trainer@gpu-1", **more)
        assert flip.generation is not None
        return flip.generation


@pytest.fixture(scope="module")
def desk(serving: Any, tmp_path_factory: pytest.TempPathFactory, wait_for: Callable[..., Any]) -> Iterator[Desk]:
    """Redis, a fleet with two models, three workers that hold them and answer, and the admin."""
    folder = tmp_path_factory.mktemp("desk")
    with ExitStack() as stack:
        environment = _environment(stack.enter_context(serving(tmp_path_factory.mktemp("redis"))), folder)
        fleet = Fleet.from_env(environ=environment)
        stack.callback(fleet.close)
        admin = Admin(environment, folder, wait_for)
        found = Desk(admin.url, fleet, folder / "hold", folder, admin.start, admin.end)
        for model in ("digits", "ranker"):
            fleet.publish(model, found.checkpoint(1.0), message="the first one")
        stack.callback(_end, _start(["workers.py", str(found.hold)], environment, folder / "workers.log"))
        stack.callback(admin.close)
        admin.start()
        wait_for(lambda: all(m.holders == WORKERS for m in fleet.status().models), 60, "every worker holds both models")
        yield found


class Admin:
    """`genlock admin` on a port of its own."""

    def __init__(self, environment: dict[str, str], folder: Path, wait_for: Callable[..., Any]) -> None:
        self._environment, self._folder, self._wait_for = environment, folder, wait_for
        self._kept = Port()  # also while it is restarted
        self._port = self._kept.number
        self.url = f"http://127.0.0.1:{self._port}/"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words = ["-m", "genlock.coordinator.commands", "admin", "--bind", f"127.0.0.1:{self._port}"]
        self._process = _start(words, self._environment, self._folder / "admin.log")
        self._wait_for(self._answers, 30, "the admin answers")

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def end(self) -> None:
        if self._process is not None:
            _end(self._process)
        self._process = None

    def close(self) -> None:
        self.end()
        self._kept.close()


def _environment(redis_url: str, folder: Path) -> dict[str, str]:
    return {
        "GENLOCK_REDIS_URL": redis_url,
        "GENLOCK_FLEET": "browser",
        "GENLOCK_STORE": str(folder / "store"),
        "GENLOCK_STATE_DIR": str(folder / "state"),
        "GENLOCK_LEASE": str(LEASE_S),
        "GENLOCK_ADMIN_TOKENS": f"operator:{OPERATOR},viewer:{VIEWER}",
        "OMP_NUM_THREADS": "1",
    }


def _start(words: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """A process of Python, unmeasured: coverage doubles the time in which it starts."""
    outer = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_PROCESS")}
    with log.open("wb") as out:
        return subprocess.Popen(
            [sys.executable, *words],
            env=outer | environment,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=out,
            cwd=HERE,
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    """By the end of its input, which workers wait for, and by TERM, which the admin does."""
    assert process.stdin is not None
    process.stdin.close()
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# --- the browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium; without one these tests fail, because nothing else looks at the page."""
    path = shutil.which("chromium")
    assert path, "chromium is not installed (Debian: apt install chromium)"
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


#: Tells the console what the policy has stopped.
WATCH_POLICY = "addEventListener('securitypolicyviolation', (e) => console.error(`policy: ${e.violatedDirective} ${e.blockedURI}`))"


@dataclass
class Visitors:
    """Opens pages, and remembers what went wrong in them. `is_alone`: the files of the page come without an admin behind them;
    `expected`: texts of errors that a test causes on purpose."""

    browser: Browser
    url: str
    is_alone: bool = False
    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)
    contexts: list[BrowserContext] = field(default_factory=list)

    def open(
        self,
        *,
        token: str | None = OPERATOR,
        at: str = "",
        width: int = 1440,
        dark: bool = False,
        scripts: tuple[str, ...] = (),
    ) -> Page:
        """A new visitor's page; `token`: logged in by a link with it."""
        context = self.browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", reduced_motion="reduce"
        )
        context.set_default_timeout(SHOWN_MS)
        self.contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: said.type in ("error", "warning") and self.errors.append(said.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda asked: asked.url.startswith(self.url) or self.foreign.append(asked.url))
        page.add_init_script(WATCH_POLICY)
        for script in scripts:
            page.add_init_script(script)
        if self.is_alone:
            page.route(f"{self.url}**", _give_file)
        page.goto(f"{self.url}#token={token}" if token else self.url)
        if token:
            page.wait_for_selector("#app:not([hidden])")
        if at:
            page.evaluate("at => { location.hash = at }", at)
        return page

    def complaints(self) -> list[str]:
        unexpected = [text for text in self.errors if not any(part in text for part in self.expected)]
        return unexpected + [f"asked {url}" for url in self.foreign]


def _give_file(route: Route) -> None:
    """A file of the page, with the headers that the admin sends."""
    name = route.request.url.partition("://")[2].partition("/")[2].partition("#")[0] or "index.html"
    route.fulfill(
        body=(PAGE / name).read_bytes(), headers=HEADERS | {"Content-Type": mimetypes.guess_type(name)[0] or ""}
    )


@pytest.fixture
def visitors(browser: Browser, desk: Desk) -> Iterator[Visitors]:
    """Pages of a test before the real admin; closed at its end, and no error may have been logged in one."""
    yield from _visit(Visitors(browser, desk.url))


@pytest.fixture
def onlookers(browser: Browser) -> Iterator[Visitors]:
    """The same without an admin, for a fleet of synthetic.js."""
    yield from _visit(Visitors(browser, "http://localhost/", is_alone=True))


def _visit(found: Visitors) -> Iterator[Visitors]:
    yield found
    for context in found.contexts:
        context.close()
    assert found.complaints() == []


@pytest.fixture(scope="session")
def synthetic() -> str:
    """A script for a page that shall see a fleet which exists only there; see synthetic.js."""
    return (HERE / "synthetic.js").read_text("utf-8")
