"""A whole site from the files of deploy/, without the containers: Redis with its users, gunicorn with its configuration, the admin, nginx
before them; and the scripts that an operator runs."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import torch
from chaos.ports import Port
from genlock.coordinator.fleet import Fleet
from safetensors.torch import save_file

from deploy.files import DEPLOY, FLEET, program, running
from deploy.models import BROKEN
from deploy.test_nginx import Front, front

HERE = Path(__file__).parent
TOKEN = "token-of-an-operator"
WORKERS = 2


class Site:
    """What an operator has before him."""

    def __init__(self, folder: Path, env: dict[str, str], fleet: Fleet, nginx: Front) -> None:
        self.folder, self.env, self.fleet, self.nginx = folder, env, fleet, nginx

    def checkpoint(self, factor: float) -> Path:
        path = self.folder / f"{factor}.safetensors"
        save_file({"factor": torch.full((1,), factor)}, path)
        return path

    def publish(self, factor: float) -> int:
        flip = self.fleet.publish("m", self.checkpoint(factor), timeout=30)
        assert flip.outcome == "committed" and flip.generation
        return flip.generation

    def evaluate(self, key: str = "") -> tuple[int, dict[str, str], Any]:
        """Through nginx: status, headers, the answer to 1."""
        body = json.dumps({"inputs": [[1.0]]}).encode()
        status, headers, found = self.nginx.ask(
            "POST", "/evaluate/m", body, Content_Type="application/json", X_Genlock_Key=key
        )
        return status, headers, found["outputs"][0][0] if status == 200 else found

    def lines(self) -> list[dict[str, Any]]:
        """What gunicorn has written."""
        return [json.loads(line) for line in (self.folder / "gunicorn.log").read_text().splitlines()]

    def start(self, script: str, *arguments: Any, **variables: str) -> subprocess.Popen[str]:
        """A script of deploy/, as an operator starts it."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return subprocess.Popen(
            ["bash", str(DEPLOY / script), *map(str, arguments)],
            env={**os.environ, **self.env, "PATH": path, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        )

    def run(self, script: str, *arguments: Any, **variables: str) -> tuple[int, str]:
        """Its exit status and what it said."""
        process = self.start(script, *arguments, **variables)
        told, _ = process.communicate("", timeout=60)
        return process.returncode, told


def environment(folder: Path, url: str) -> dict[str, str]:
    return {
        "GENLOCK_REDIS_URL": url,
        "GENLOCK_FLEET": FLEET,
        "GENLOCK_STORE": str(folder / "store"),
        "GENLOCK_STATE_DIR": str(folder / "state"),
        "GENLOCK_LEASE": "3",
        "GENLOCK_LOG": "json",
    }


@contextlib.contextmanager
def process(command: list[str], log: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """Ended with TERM, as an engine and systemd do. Unmeasured: coverage doubles the time in which it starts."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_PROCESS")}
    with log.open("ab") as output:
        started = subprocess.Popen(
            command, env={**inherited, **variables}, stdout=output, stderr=output, cwd=log.parent
        )
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(30)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, wait_for: Callable[..., Any]) -> Iterator[Site]:
    """Two workers that hold generation 1 of "m", the admin, nginx."""
    folder = tmp_path_factory.mktemp("site")
    tokens = folder / "tokens"
    tokens.write_text(f"operator:{TOKEN}\n")
    tokens.chmod(0o600)
    with ExitStack() as stack:
        server = stack.enter_context(running("redis", folder / "redis", wait_for))
        evaluators, admin, nobody = (stack.enter_context(closing(Port())).number for _ in range(3))
        own = environment(folder, server.tcp("admin"))
        fleet = stack.enter_context(closing(Fleet.from_env(environ=own)))
        worker = {
            **environment(folder, server.tcp("worker")),
            "GENLOCK_MODELS": "m=models:Times",
            "PYTHONPATH": str(HERE),
            "WEB_CONCURRENCY": str(WORKERS),
            "BIND": f"127.0.0.1:{evaluators}",
        }
        gunicorn = [sys.executable, "-m", "gunicorn", "-c", str(DEPLOY / "gunicorn.conf.py"), "genlock.worker.app:app"]
        stack.enter_context(process(gunicorn, folder / "gunicorn.log", **worker))
        command = [sys.executable, "-m", "genlock.coordinator.commands", "admin", "--bind", f"127.0.0.1:{admin}"]
        more = {"GENLOCK_ADMIN_TOKENS_FILE": str(tokens), "GENLOCK_ADMIN_PROXIES": "1"}
        stack.enter_context(process(command, folder / "admin.log", **own, **more))
        # Last, so that it ends first, and no server waits for connections that it keeps.
        nginx = stack.enter_context(front(folder, [evaluators, nobody], admin, wait_for))
        made = Site(folder, own, fleet, nginx)
        assert made.publish(1.0) == 1
        wait_for(lambda: fleet.model("m").holders == WORKERS, 60, "both workers hold the model")
        wait_for(lambda: nginx.ask("GET", "/livez")[0] == 200, 60, "the admin answers")
        yield made


@pytest.fixture(autouse=True)
def back_to_normal(site: Site) -> Iterator[None]:
    """Whatever a test leaves: no candidate, no pin."""
    yield
    status = site.fleet.model("m")
    if status.candidate:
        site.fleet.abort("m")
    if status.pin:
        site.fleet.unpin("m")


@pytest.fixture
def users(site: Site) -> Iterator[list[int]]:
    """Four clients with many keys, all the while; the statuses that they got."""
    stop, statuses = threading.Event(), []

    def ask(first: int) -> None:
        for number in range(first, 10**9, 4):
            if stop.wait(0.03):
                return
            statuses.append(site.evaluate(f"user-{number % 500}")[0])

    threads = [threading.Thread(target=ask, args=(n,), name=f"user {n}") for n in range(4)]
    for thread in threads:
        thread.start()
    yield statuses
    stop.set()
    for thread in threads:
        thread.join()


#: Few answers are enough, and one that a busy machine holds up is not slow: how a canary is judged is for the tests to say that need it.
QUICK = {"STEPS": "30% 60%", "STEP_S": "2", "LOOK_S": "0.1", "REQUESTS": "5", "LATENCY": "10000"}


def test_an_evaluation_passes_through_and_is_one_line_of_json(site: Site, wait_for: Any) -> None:
    """One request can be followed: nginx's line and gunicorn's have the same id, and both say which generation answered. Health checks
    leave no line."""
    generation = site.publish(2.0)
    status, headers, value = site.evaluate()
    assert (status, headers["x-genlock-generation"], value) == (200, str(generation), 2.0)
    front_line = wait_for(
        lambda: next((line for line in site.nginx.lines if line["generation"] == str(generation)), None),
        10,
        "nginx logs it",
    )
    asked = front_line["request"]
    behind = wait_for(
        lambda: next((line for line in site.lines() if line.get("request") == asked), None), 10, "gunicorn logs it"
    )
    assert (behind["status"], behind["generation"], behind["path"]) == (200, str(generation), "/evaluate/m")
    assert behind["client"] == "127.0.0.1"
    assert 0 < behind["seconds"] < 10
    before = [line for line in site.lines() if line.get("event") == "request"]
    assert [line for line in before if line["path"] in ("/livez", "/readyz")] == []
    assert {"level", "logger", "message", "time"} <= set(behind)


def test_the_admin_sends_events_through_nginx_as_they_happen(site: Site) -> None:
    """A page is open while somebody publishes: it hears of the commit at once. Without a token it hears nothing."""
    assert site.nginx.ask("GET", "/api/v1/fleet")[0] == 401
    status, _, found = site.nginx.ask("GET", "/api/v1/models/m", Authorization=f"Bearer {TOKEN}")
    assert (status, found["holders"]) == (200, WORKERS)
    with closing(http.client.HTTPConnection("127.0.0.1", site.nginx.port, timeout=20)) as connection:
        connection.request("GET", "/api/v1/events?follow=1", headers={"Authorization": f"Bearer {TOKEN}"})
        answer = connection.getresponse()
        assert answer.getheader("content-type", "").startswith("text/event-stream")
        generation = site.publish(3.0)
        while True:
            line = answer.readline()
            assert line, "the stream ended"
            if line.startswith(b"data:"):
                event = json.loads(line[5:])
                if event["what"] == "committed" and event["facts"]["generation"] == str(generation):
                    return


def test_gunicorn_takes_its_configuration() -> None:
    """`--check-config` with the file as it is."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "gunicorn",
            "--check-config",
            "-c",
            str(DEPLOY / "gunicorn.conf.py"),
            "genlock.worker.app:app",
        ],
        env={"PATH": os.environ["PATH"], "GENLOCK_STATE_DIR": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_rollback_sh_goes_back_and_says_so(site: Site) -> None:
    """An operator takes a model back in a hurry; the model is pinned, with the reason."""
    site.publish(4.0)
    last = site.publish(5.0)
    status, told = site.run("rollback.sh", "m", "--yes", "-m", "five is a mistake")
    assert status == 0, told
    assert site.evaluate()[2] == 4.0
    assert f"generation {last + 1}" in told
    pin = site.fleet.model("m").pin
    assert pin and pin.why == "five is a mistake"


def test_rollback_sh_asks_and_does_nothing_without_an_answer(site: Site) -> None:
    site.publish(6.0)
    before = site.publish(7.0)
    status, told = site.run("rollback.sh", "m")
    assert (status, site.fleet.model("m").generation) == (130, before), told
    assert "nothing was changed" in told
    assert site.run("rollback.sh", "m", "--to", "99999", "--yes")[0] == 1
    assert site.run("rollback.sh", "m", "--too", "1")[0] == 2
    assert site.run("rollback.sh")[0] == 2


def test_staged_rollout_sh_goes_through_its_steps(site: Site, users: list[int]) -> None:
    """A good checkpoint: a share of the keys, a greater one, everybody; nobody gets an error."""
    site.publish(8.0)
    status, told = site.run("staged-rollout.sh", "m", site.checkpoint(9.0), "--", "-m", "run 41", **QUICK)
    assert status == 0, told
    assert [step in told for step in ("30%:", "60%:", "everybody")] == [True] * 3
    assert site.evaluate()[2] == 9.0
    assert site.fleet.model("m").message == "run 41"
    assert set(users) == {200}


def test_staged_rollout_sh_aborts_what_is_worse(site: Site, users: list[int]) -> None:
    """A checkpoint that loads and then fails: some users see it, and it is gone before it gets a greater share."""
    before = site.publish(10.0)
    status, told = site.run("staged-rollout.sh", "m", site.checkpoint(BROKEN), **QUICK)
    assert status == 3, told
    assert "60%" not in told
    model = site.fleet.model("m")
    assert (model.generation, model.candidate) == (before, None)
    assert site.fleet.history("m")[0].outcome == "aborted"


def test_staged_rollout_sh_aborts_what_is_slower(site: Site, users: list[int]) -> None:
    """Nothing is a thousandth as long as it was: the checkpoint goes through its first step, and no further."""
    before = site.publish(16.0)
    status, told = site.run("staged-rollout.sh", "m", site.checkpoint(17.0), **{**QUICK, "LATENCY": "0.001"})
    assert status == 3, told
    assert "errors 0.00 %" in told
    assert "60%" not in told
    assert site.fleet.model("m").generation == before


def test_staged_rollout_sh_aborts_when_it_is_interrupted(site: Site, users: list[int], wait_for: Any) -> None:
    """Ctrl-C in the middle: the canary does not stay behind."""
    before = site.publish(11.0)
    process = site.start("staged-rollout.sh", "m", site.checkpoint(12.0), **{**QUICK, "STEP_S": "600"})
    wait_for(lambda: site.fleet.model("m").phase == "canary", 30, "the canary begins")
    wait_for(lambda: process.poll() is not None or interrupt(process), 30, "the script ends")
    process.communicate()
    assert process.returncode == 130
    model = site.fleet.model("m")
    assert (model.generation, model.candidate) == (before, None)


def interrupt(process: subprocess.Popen[str]) -> bool:
    os.kill(process.pid, signal.SIGINT)
    return False


def test_staged_rollout_sh_gives_up_on_a_canary_that_nobody_asks(site: Site) -> None:
    """No request has a key: there is nothing to judge by, and a canary that was not judged is not promoted."""
    before = site.publish(14.0)
    status, told = site.run("staged-rollout.sh", "m", site.checkpoint(15.0), **QUICK)
    assert status == 3, told
    assert "too few" in told
    assert site.fleet.model("m").generation == before


#: Plays genlock for a fleet in which a canary of generation 7 makes no errors and takes P95 seconds (what is active: 0.1), and every
#: promotion ends with STATUS.
PLAYED = """#!/bin/sh
echo "$@" >> "$LOG"
case $1 in
    publish) echo '{"outcome": "canary", "generation": 7}' ;;
    status) echo '{"candidate": {"generation": 7, "figures": {"candidate": {"requests": 9, "errors": 0, "p95_s": '"$P95"'},
        "active": {"requests": 9, "errors": 0, "p95_s": 0.1}}}}' ;;
    promote) exit "$STATUS" ;;
esac
"""


def played(folder: Path, **terms: str) -> tuple[int, str, list[str]]:
    """A staged rollout before a played genlock: its exit status, what it said, and the promotions and aborts that it sent."""
    genlock, log = folder / "genlock", folder / "log"
    genlock.write_text(PLAYED)
    genlock.chmod(0o755)
    usual = {"STEP_S": "0", "LOOK_S": "0", "REQUESTS": "1", "P95": "0.1", "LOG": str(log)}
    done = subprocess.run(
        [DEPLOY / "staged-rollout.sh", "m", "a.safetensors"],
        env={"PATH": os.environ["PATH"], "GENLOCK": str(genlock), **usual, **terms},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    sent = [line for line in log.read_text().splitlines() if line.split()[0] in ("promote", "abort")]
    return done.returncode, done.stdout + done.stderr, sent


@pytest.mark.parametrize("p95", ("0.05", "0.1", "0.12"))
def test_staged_rollout_sh_promotes_what_is_hardly_slower(tmp_path: Path, p95: str) -> None:
    """At the factor that counts where nobody says another, 1.25."""
    status, told, sent = played(tmp_path, STEPS="30%", STATUS="0", P95=p95)
    assert (status, sent) == (0, ["promote m --generation 7"]), told


@pytest.mark.parametrize(
    ("p95", "more"),
    (("0.13", {}), ("0.2", {"LATENCY": "1.25"}), ("0.12", {"LATENCY": "1.1"}), ("0.09", {"LATENCY": "0.8"})),
)
def test_staged_rollout_sh_aborts_at_the_factor_that_it_is_given(
    tmp_path: Path, p95: str, more: dict[str, str]
) -> None:
    status, told, sent = played(tmp_path, STEPS="30%", STATUS="0", P95=p95, **more)
    assert (status, [line[:22] for line in sent]) == (3, ["abort m --generation 7"]), told
    assert "(active 0.1000 s)" in told


@pytest.mark.parametrize("steps", ("30% 60%", "30%"), ids=("to a greater share", "to everybody"))
@pytest.mark.parametrize(
    ("status", "aborts", "says"), ((1, 1, "could not be promoted"), (3, 0, "genlock history m"), (4, 0, "not known"))
)
def test_staged_rollout_sh_leaves_no_canary_that_cannot_be_promoted(
    tmp_path: Path, steps: str, status: int, aborts: int, says: str
) -> None:
    """Too few workers were ready for a greater share: the script ended, and the canary went on to answer until its time was over.

    What was decided against (3) needs no abort, and what may be promoted already (4) is not to be stopped.
    """
    ended, told, sent = played(tmp_path, STEPS=steps, STATUS=str(status))
    assert ended == status, told
    assert says in told
    share = " --share 60%" if "60%" in steps else ""
    assert sent[0] == f"promote m --generation 7{share}"
    assert [line[:22] for line in sent[1:]] == ["abort m --generation 7"] * aborts


def test_scripts_end_as_genlock_does(site: Site) -> None:
    """A file that is not there, a model that nobody knows, a Redis that is gone: the status of genlock, and nothing else happens."""
    assert site.run("staged-rollout.sh", "m", "/nowhere")[0] == 1
    assert site.run("staged-rollout.sh", "m")[0] == 2
    assert site.run("rollback.sh", "unknown", "--yes")[0] == 2
    assert site.run("rollback.sh", "m", "--yes", GENLOCK_REDIS_URL="redis://127.0.0.1:1/0")[0] == 5


@pytest.mark.parametrize("script", sorted(DEPLOY.rglob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_written_carefully(script: Path) -> None:
    """The shell reads them, they stop at the first error, and anybody may run them."""
    text = script.read_text()
    shell = text.partition("\n")[0].rpartition("/")[2].removeprefix("env ")
    assert subprocess.run([program(shell), "-n", str(script)], capture_output=True, timeout=20).stderr == b""
    assert ("set -eu" in text) if shell == "sh" else ("set -euo pipefail" in text)
    assert os.access(script, os.X_OK)


def test_secrets_sh_makes_each_once_and_follows_what_is_changed(tmp_path: Path) -> None:
    """Run twice it changes nothing; after another password or fleet in .env it writes the ACL afresh."""

    def run() -> dict[str, str]:
        done = subprocess.run(
            [str(DEPLOY / "secrets.sh"), str(tmp_path)], capture_output=True, text=True, timeout=20, check=False
        )
        assert done.returncode == 0, done.stderr
        files = [tmp_path / ".env", *(tmp_path / "deploy/secrets").iterdir()]
        assert [path.name for path in files if path.stat().st_mode & 0o007] == []
        return {path.name: path.read_text() for path in files}

    first = run()
    assert set(first) == {".env", "users.acl", "admin-tokens", "grafana-password"}
    made = dict(line.split("=") for line in first[".env"].splitlines())
    assert not any(value in first["users.acl"] for name, value in made.items() if "PASSWORD" in name)
    assert len(set(made.values())) == 4
    from genlock.coordinator.notation import token

    assert [token(line)[0] for line in first["admin-tokens"].splitlines()] == ["operator", "viewer"]
    assert run() == first
    with (tmp_path / ".env").open("a") as file:
        file.write("GENLOCK_FLEET=prod\n")
    changed = run()
    assert "genlock:{prod}:hint" in changed["users.acl"]
    assert {name for name in changed if changed[name] != first[name]} == {".env", "users.acl"}
