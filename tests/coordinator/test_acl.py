"""The user of an ACL that docs/redis.md shows is enough for all that a fleet does, and for nothing else."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from genlock.coordinator.errors import RedisRefused
from genlock.coordinator.fleet import Fleet

PAGE = Path(__file__).parents[2] / "docs/redis.md"


@pytest.fixture
def rules() -> list[str]:
    """The words behind `user genlock` on the page, for the fleet of the tests."""
    block = re.search(r"```acl\nuser genlock (.*?)```", PAGE.read_text(), re.S)
    assert block
    return ["reset", *block[1].replace("{prod}", "{t}").replace("PASSWORD", "secret-1").split()]


def test_a_fleet_runs_under_the_user_of_the_page(
    rules: list[str], serving: Any, new_fleet: Callable[..., Fleet], tmp_path: Path
) -> None:
    """An operator copies the line into the server's configuration; publish, history, events and tasks go through, other keys do not."""
    folder = tmp_path / "server"
    folder.mkdir()
    (tmp_path / "m.bin").write_bytes(b"x" * 100)
    with serving(folder) as url:
        with redis.Redis.from_url(url) as admin:
            admin.execute_command("ACL", "SETUSER", "genlock", *rules)
            admin.execute_command("ACL", "SETUSER", "default", "off")
        path = url.removeprefix("unix://")
        fleet = new_fleet(url=f"unix://genlock:secret-1@{path}")
        assert fleet.publish("digits", tmp_path / "m.bin").outcome == "committed"
        assert fleet.publish("digits", {"a": tmp_path / "m.bin"}).generation == 2
        assert fleet.rollback("digits").generation == 3
        assert fleet.unpin("digits") == 3
        assert len(fleet.history("digits")) == 3
        assert fleet.clear().ok
        assert "committed" in [event.what for event in fleet.events()]
        assert fleet.status().workers == 0
        assert fleet.gc() == []
        other = new_fleet(url=f"unix://genlock:secret-1@{path}", name="other", store=tmp_path / "other")
        with pytest.raises(RedisRefused, match=r"NOPERM|permission"):
            other.publish("digits", tmp_path / "m.bin")
