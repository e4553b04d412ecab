"""deploy/Dockerfile: nothing here builds an image, but its steps lead somewhere: what is copied exists and is let in, what is installed can
be, what is started is there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path

import pytest

from deploy.files import ROOT

DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def steps() -> list[tuple[str, str]]:
    """(instruction, the rest) of each, with what goes on over lines put together."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.M).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines()) if word]


def arguments() -> dict[str, str]:
    return dict(rest.split("=", 1) for word, rest in steps() if word == "ARG")


def copied() -> list[list[str]]:
    """Sources and target of each COPY from the repository."""
    return [rest.split() for word, rest in steps() if word == "COPY" and not rest.startswith("--from")]


def is_let_in(path: str) -> bool:
    """As .dockerignore says: the last rule that fits counts, for the path or a folder above it."""
    found = True
    parts = Path(path).parts
    above = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    for rule in (ROOT / ".dockerignore").read_text().split("\n"):
        rule = rule.strip()
        if rule and not rule.startswith("#") and any(fnmatch(one, rule.lstrip("!")) for one in above):
            found = rule.startswith("!")
    return found


def test_what_is_copied_exists_and_is_let_in() -> None:
    sources = [source for *found, _ in copied() for source in found]
    assert len(sources) >= 6
    for source in sources:
        assert (ROOT / source).exists(), source
        assert is_let_in(source), source
    assert not is_let_in("tests/conftest.py")
    assert not is_let_in(".env")
    assert not is_let_in("deploy/secrets/admin-tokens")


def test_all_that_the_package_is_made_of_is_copied() -> None:
    """A package folder that pyproject.toml names and the image lacks is an import error at the first request."""
    sources = {source for *found, _ in copied() for source in found}
    folders = {path.partition("/")[0] for path in PROJECT["tool"]["setuptools"]["package-dir"].values()}
    assert folders <= sources
    assert {
        PROJECT["project"]["readme"],
        *PROJECT["project"]["license-files"],
        "pyproject.toml",
        "constraints.txt",
    } <= sources


def test_what_is_installed_can_be() -> None:
    """The extras are those of the package; every program that any of them brings has an exact version in constraints.txt."""
    extras = arguments()["EXTRAS"].split(",")
    known = PROJECT["project"]["optional-dependencies"]
    assert set(extras) <= set(known)
    assert '".[${EXTRAS}]"' in DOCKERFILE
    names = {
        line.partition("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split("\n")
    }
    wanted = [need for extra in extras for need in known[extra]] + PROJECT["project"]["dependencies"]
    for need in wanted:
        name = re.split(r"[\[>=<]", need)[0].lower().replace("_", "-")
        assert name == "genlock" or name in names, name


def test_torch_can_come_from_its_own_index_and_nothing_else_does() -> None:
    """Where an address is given: an image has no gigabytes for a GPU that nobody has."""
    (line,) = [rest for word, rest in steps() if word == "RUN" and "TORCH_INDEX" in rest]
    assert "--no-deps" in line and "--index-url" in line and "--constraint constraints.txt" in line
    assert line.split()[-1] == "torch"
    assert arguments()["TORCH_INDEX"] == "" and '${TORCH_INDEX:+--index-url "${TORCH_INDEX}"}' in line


def test_the_last_stage_is_small_and_not_root() -> None:
    """It gets what was installed, not what installed it."""
    last = steps()[max(n for n, (word, _) in enumerate(steps()) if word == "FROM") :]
    assert last[0] == ("FROM", "python:${PYTHON}")
    assert re.fullmatch(r"3\.\d+\.\d+-slim-\w+", arguments()["PYTHON"])
    text = "\n".join(rest for _, rest in last)
    assert "pip install" not in text and "apt-get" not in text and "pip uninstall" in text
    assert [rest for word, rest in last if word == "USER"] == ["10001:10001"]
    assert "--uid 10001" in text and "--gid 10001" in text
    copies = [rest for word, rest in last if word == "COPY"]
    assert copies == ["--from=build /opt/genlock /opt/genlock", "deploy/gunicorn.conf.py /etc/genlock/gunicorn.conf.py"]


def test_what_is_started_is_there() -> None:
    """The command of the image, that of its health check, and the commands that its head line names."""
    words = {word: json.loads(rest) for word, rest in steps() if word == "CMD"}
    assert words["CMD"] == ["gunicorn", "-c", "/etc/genlock/gunicorn.conf.py", "genlock.worker.app:app"]
    health = re.search(r"CMD (\[.*\])", next(rest for word, rest in steps() if word == "HEALTHCHECK"))
    assert health
    compile(json.loads(health[1])[2], "healthcheck", "exec")
    assert PROJECT["project"]["scripts"]["genlock"]
    modules = [name for name in re.findall(r"python -m ([\w.]+)", DOCKERFILE) if name.startswith("genlock.")]
    assert modules == ["genlock.worker.demo.job"]
    assert find_spec(modules[0])


def test_the_package_is_built_from_what_is_copied(tmp_path: Path) -> None:
    """The steps of the image's first stage with the files of its context and nothing else: every module and every file that a package
    needs at run time has to be in the wheel."""
    for *sources, target in copied():
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, tmp_path / target, ignore=shutil.ignore_patterns("__pycache__"))
            elif target == "./":
                shutil.copy(ROOT / source, tmp_path)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        "wheels",
        ".",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (tmp_path / "wheels").iterdir()
    found = {name.removeprefix("genlock/") for name in zipfile.ZipFile(wheel).namelist()}
    wanted = {
        str(path.relative_to(tmp_path))
        for folder in ("coordinator", "worker")
        for path in (tmp_path / folder).rglob("*")
        if path.suffix in (".py", ".lua", ".html", ".js", ".css", ".svg", ".typed")
    }
    assert wanted - found == set()


@pytest.mark.parametrize("answers", [True, False])
def test_the_health_check_tells_alive_from_dead(answers: bool) -> None:
    """A server that answers, and a port where nobody listens."""
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    class Alive(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/livez" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Not to stderr."""

    server = HTTPServer(("127.0.0.1", 0), Alive)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        line = next(rest for word, rest in steps() if word == "HEALTHCHECK")
        command = json.loads(line[line.index("[") :])
        url = f"http://127.0.0.1:{server.server_port if answers else 1}/livez"
        done = subprocess.run(
            [sys.executable, *command[1:]], env={"HEALTH_URL": url}, capture_output=True, timeout=20, check=False
        )
        assert (done.returncode == 0) is answers
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
