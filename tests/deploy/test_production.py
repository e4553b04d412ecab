"""docs/production.md: somebody copies its blocks. What they name is there, and what can be tried is tried."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from genlock.coordinator.commands.program import COMMANDS
from genlock.coordinator.notation import token
from genlock.coordinator.settings import TABLE

from deploy.files import DEPLOY, ROOT, program

PAGE = (ROOT / "docs/production.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE, re.S)
LINES = [line[2:] for kind, block in BLOCKS if kind == "console" for line in block.splitlines()]


def test_every_file_that_it_names_is_there() -> None:
    named = {path.rstrip("/") for path in re.findall(r"\bdeploy/[\w./-]*\w", PAGE)}
    made = {path for path in named if path.startswith("deploy/secrets/") or path == "deploy/secrets"}
    assert len(named) > 12
    assert [path for path in named - made if not (ROOT / path).exists()] == []


def test_every_command_is_one() -> None:
    """Of genlock, and services of the compose file."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for line in LINES:
        for name in re.findall(r"(?:bin/genlock|--rm (?:-v \S+ )?operator) (\w+)", line):
            assert name in COMMANDS, line
        if found := re.match(r"docker compose (?:--profile demo )?(up|run|exec|stop)\b(.*)", line):
            words = re.sub(r'-v "[^"]*"', "", found[2]).split()
            given = [word for word in words if not word.startswith("-")]
            assert not given or given[0] in services or "=" in given[0], line
    assert re.findall(r"`genlock (\w+)", PAGE)
    assert set(re.findall(r"`genlock (\w+)", PAGE)) <= set(COMMANDS)


def test_every_variable_is_one() -> None:
    known = {row.variable for row in TABLE} | {"GENLOCK_CODE", "GENLOCK_CHECKPOINTS"}
    assert set(re.findall(r"\bGENLOCK_[A-Z_]+", PAGE)) - known == set()
    compose = (ROOT / "docker-compose.yml").read_text()
    for name in ("GENLOCK_CODE", "EVALUATOR_MEMORY", "GENLOCK_MAX_BYTES", "SECRETS_GID"):
        assert f"${{{name}:" in compose
    scripts = (DEPLOY / "staged-rollout.sh").read_text() + (DEPLOY / "rollback.sh").read_text()
    for name in ("STEPS", "STEP_S", "ERRORS", "LATENCY", "REQUESTS", "GENLOCK"):
        assert f"${{{name}:-" in scripts
    for argument in re.findall(r"--build-arg (\w+)=", PAGE):
        assert f"ARG {argument}=" in (DEPLOY / "Dockerfile").read_text()


def test_the_upstreams_of_machines_are_such(tmp_path: Path) -> None:
    """nginx takes the block in the place of the file, and its own file beside it."""
    (block,) = [text for kind, text in BLOCKS if kind == "nginx"]
    (tmp_path / "upstreams.conf").write_text(block)
    shutil.copy(DEPLOY / "nginx/nginx.conf", tmp_path)
    done = subprocess.run(
        [program("nginx"), "-t", "-q", "-c", str(tmp_path / "nginx.conf")],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_tokens_are_such() -> None:
    (block,) = [text for kind, text in BLOCKS if text.startswith("operator/")]
    assert [token(line)[0] for line in block.splitlines()] == ["operator/alice", "viewer/wall"]


@pytest.mark.parametrize("line", LINES)
def test_a_shell_reads_each_line(line: str) -> None:
    assert subprocess.run(["bash", "-n", "-c", line], capture_output=True, timeout=20, check=False).stderr == b""
