"""What is read of this process's machine, and of the fleet's file in the store."""

import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from genlock.coordinator.doctor import host
from genlock.coordinator.doctor.facts import IdentityFacts
from genlock.coordinator.doctor.host import look_at_host, look_at_identity
from genlock.coordinator.identity import identity, mark_had_member
from genlock.coordinator.settings import Settings
from genlock.coordinator.store import Store


def test_tokens_are_told_by_their_roles_alone() -> None:
    """Somebody pasted the output into a ticket."""
    settings = Settings(admin_tokens=(("viewer", "secret-1"), ("operator/ada", "secret-2"), ("viewer", "secret-3")))
    found = look_at_host(settings)
    assert found.roles == ("operator", "viewer")
    assert "secret" not in repr(found)
    assert found.python == sys.version_info[:3]


def test_a_file_of_tokens_that_everybody_may_read_is_said(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("operator:secret-1\n")
    file.chmod(0o600)
    assert look_at_host(Settings(admin_tokens_file=file)).roles == ("operator",)
    file.chmod(0o644)
    found = look_at_host(Settings(admin_tokens_file=file))
    assert found.roles == () and "everybody on this machine may read it" in found.tokens_error


def test_the_version_of_torch_is_read_and_nothing_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def missing(name: str) -> str:
        asked.append(name)
        raise PackageNotFoundError(name)

    monkeypatch.setattr(host, "version", missing)
    assert look_at_host(Settings()).torch is None and asked == ["torch"]


def test_the_identity_is_read_and_never_made(tmp_path: Path) -> None:
    """The doctor with a mistyped fleet made a fleet of that name."""
    settings = Settings(fleet="t", store=tmp_path / "store")
    assert look_at_identity(Store(settings.store_place), settings) == IdentityFacts()
    assert list(tmp_path.iterdir()) == []
    store = Store(tmp_path / "store")
    made = identity(store, "t", lease_s=1.5)
    mark_had_member(store, "t")
    assert look_at_identity(Store(settings.store_place), settings) == IdentityFacts(
        fleet_id=made.fleet_id, lease_s=1.5, had_member=True
    )
    (tmp_path / "store/fleets/t.json").write_text("{")
    assert "does not say which fleet" in look_at_identity(Store(settings.store_place), settings).error
