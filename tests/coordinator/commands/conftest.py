"""The command line as a user calls it: `genlock("status", "--json")`, in this process, against the fleet of the fixture `fleet`."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from genlock.coordinator.commands import main
from genlock.coordinator.fleet import Fleet

#: What a process of the command line is called by.
PROGRAM = (sys.executable, "-m", "genlock.coordinator.commands")


@dataclass(frozen=True)
class Ran:
    """How a command has ended, and what it wrote."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """stdout as the one JSON document that it has to be."""
        return json.loads(self.out)


@pytest.fixture
def environment(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment names the fleet; the terminal has 80 columns."""
    assert fleet.identity  # made with the lease of the fixture before a command makes it with another
    for name in [name for name in os.environ if name.startswith("GENLOCK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GENLOCK_REDIS_URL", fleet.settings.redis_url or "")
    monkeypatch.setenv("GENLOCK_FLEET", fleet.name)
    monkeypatch.setenv("GENLOCK_STORE", str(fleet.store.root))
    monkeypatch.setenv("GENLOCK_STATE_DIR", str(fleet.settings.state_dir))
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def genlock(environment: None, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """genlock(*arguments): runs one command line."""

    def run(*arguments: str | Path) -> Ran:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        return Ran(status, *capsys.readouterr())

    return run


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """checkpoint(content="1"): a file with that content; no checkpoint of torch, which nobody here looks into."""

    def make(content: str = "1", name: str = "model.bin") -> Path:
        path = tmp_path / name
        path.write_text(f"checkpoint {content}")
        return path

    return make


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """plug_in(name, source): installs a distribution whose entry point `name` is the function `command` of a module of that source."""

    def install(name: str, source: str) -> None:
        module, folder = f"plugged_{name}", tmp_path / "site"
        info = folder / f"{module}-1.dist-info"
        info.mkdir(parents=True)
        (folder / f"{module}.py").write_text(source)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[genlock.commands]\n{name} = {module}:command\n")
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.delitem(sys.modules, module, raising=False)

    return install
