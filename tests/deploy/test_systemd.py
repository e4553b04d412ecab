"""deploy/systemd: systemd itself reads the units, and says how much each could do."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from genlock.coordinator.settings import TABLE, Settings

from deploy.files import DEPLOY, program

UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
#: What `systemd-analyze security` says at most, out of 10: its word for that is OK. A service without any of these lines has 9.6.
EXPOSURE = 2.5


@pytest.fixture
def installed(tmp_path: Path) -> list[Path]:
    """The units, with programs that this machine has in the place of /opt/genlock/bin."""
    found = []
    for unit in UNITS:
        text = unit.read_text().replace("/opt/genlock/bin", str(Path(sys.executable).parent))
        text = text.replace("/usr/bin/redis-server", program("redis-server"))
        found.append(tmp_path / unit.name)
        found[-1].write_text(text)
    return found


def test_systemd_takes_the_units(installed: list[Path]) -> None:
    """An option that systemd does not know, or in the wrong section, would be ignored by it with a line in a log."""
    done = subprocess.run(
        [program("systemd-analyze"), "verify", "--man=no", *map(str, installed)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_unit_may_do_little(installed: list[Path]) -> None:
    for unit in installed:
        done = subprocess.run(
            [program("systemd-analyze"), "security", "--offline=yes", "--no-pager", str(unit)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
        assert found, done.stderr
        assert float(found[1]) <= EXPOSURE, done.stdout


def test_the_example_of_settings_is_one() -> None:
    """Also the lines for the other two files, which stand there as comments."""
    text = (DEPLOY / "systemd/genlock.env").read_text()
    rows = re.findall(r"^(?:#   )?([A-Z_]+)=(.*)$", text, re.M)
    assert {name for name, _ in rows} - {row.variable for row in TABLE} == {"PYTHONPATH", "WEB_CONCURRENCY", "BIND"}
    settings = Settings.from_env({name: value for name, value in rows if name.startswith("GENLOCK_")})
    assert str(settings.store) == "/srv/genlock/models"
    for unit in UNITS:
        for path in re.findall(r"^ReadWritePaths=(.*)$", unit.read_text(), re.M):
            assert str(settings.store).startswith(path)


def test_a_stop_waits_longer_than_a_request_may_take() -> None:
    text = (DEPLOY / "systemd/genlock-evaluator.service").read_text()
    (stop,) = re.findall(r"^TimeoutStopSec=(\d+)$", text, re.M)
    assert float(stop) > Settings().max_wait_s + 15  # graceful_timeout of gunicorn.conf.py
