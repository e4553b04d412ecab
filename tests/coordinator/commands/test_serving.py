"""coordinator/commands/serving.py: where the admin listens, and who is let in."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from genlock.coordinator.admin import serving

Genlock = Callable[..., Any]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What gunicorn was given, which is not begun."""
    made: list[dict[str, Any]] = []

    class Server:
        def __init__(self, settings: Any, **options: Any) -> None:
            made.append(options)

        def run(self) -> None:
            pass

    monkeypatch.setattr(serving, "Server", Server)
    monkeypatch.setattr("genlock.coordinator.commands.serving._check_free", lambda host, port: None)
    return made


def test_a_port_that_is_taken_is_told_and_no_link_is_printed(genlock: Genlock) -> None:
    """Somebody starts it twice: the second link would lead to the first one, which does not know its token."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        bind = f"127.0.0.1:{other.getsockname()[1]}"
        ran = genlock("admin", "--bind", bind)
    assert ran.status == 2 and "http://" not in ran.out
    assert f"cannot listen on {bind}" in ran.err and "choose another --bind" in ran.err


def test_without_tokens_a_link_for_this_run_is_printed(genlock: Genlock, served: list[Any]) -> None:
    first, second = genlock("admin"), genlock("admin", "--json")
    tokens = [options["token"] for options in served]
    assert len(set(tokens)) == 2
    assert f"http://127.0.0.1:8900/#token={tokens[0]}" in first.out
    assert second.document == {"url": f"http://127.0.0.1:8900/#token={tokens[1]}", "token": tokens[1]}
    assert {options["bind"] for options in served} == {"127.0.0.1:8900"}


def test_with_tokens_none_is_made(
    genlock: Genlock, served: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GENLOCK_ADMIN_TOKENS", "operator:may-do-all")
    assert "may-do-all" not in genlock("admin", "--bind", "0.0.0.0:80").out
    monkeypatch.delenv("GENLOCK_ADMIN_TOKENS")
    path = tmp_path / "tokens"
    path.write_text("viewer:looks-only\n")
    path.chmod(0o640)
    monkeypatch.setenv("GENLOCK_ADMIN_TOKENS_FILE", str(path))
    assert genlock("admin", "--bind", "0.0.0.0:80", "--threads", "64").status == 0
    assert served == [{"bind": "0.0.0.0:80", "threads": threads, "token": None} for threads in (48, 64)]
    path.chmod(0o644)
    assert "chmod" in genlock("admin").err


@pytest.mark.parametrize("bind", ["0.0.0.0:8900", "[::]:8900", "203.0.113.9:80", "example.org:80"])
def test_without_tokens_nobody_else_is_let_in(genlock: Genlock, served: list[Any], bind: str) -> None:
    """The link would be the only thing between the fleet and everybody."""
    ran = genlock("admin", "--bind", bind)
    assert (ran.status, served) == (2, [])
    assert "GENLOCK_ADMIN_TOKENS" in ran.err


@pytest.mark.parametrize("bind", ["127.0.0.1:80", "127.8.9.1:80", "[::1]:80", "localhost:80"])
def test_this_machine_is_let_in(genlock: Genlock, served: list[Any], bind: str) -> None:
    assert genlock("admin", "--bind", bind).status == 0
    assert served[0]["bind"] == bind


@pytest.mark.parametrize(
    "bind", ["8900", ":8900", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:0", "127.0.0.1:65536"]
)
def test_an_address_that_is_none_is_told(genlock: Genlock, served: list[Any], bind: str) -> None:
    ran = genlock("admin", "--bind", bind)
    assert (ran.status, served) == (2, [])
    assert "HOST:PORT" in ran.err


def test_what_is_not_installed_is_told(genlock: Genlock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genlock.coordinator.commands.serving.find_spec", lambda name: None)
    ran = genlock("admin")
    assert ran.status == 1
    assert "pip install 'genlock[admin]'" in ran.err
