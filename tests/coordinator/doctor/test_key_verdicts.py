"""What is said of keys: who signs, whom workers here believe, and whether that goes together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from genlock.coordinator.doctor.facts import KeyFacts
from genlock.coordinator.doctor.host import look_at_host
from genlock.coordinator.doctor.key_verdicts import judge_keys
from genlock.coordinator.settings import Settings
from genlock.coordinator.signing import KeyPair

ONE, TWO = (KeyPair(bytes([n]) * 32) for n in (1, 2))


@pytest.mark.parametrize(
    ("facts", "level", "words"),
    [
        ({}, "ok", "whoever may write to Redis and the store can publish a model"),
        ({"error": "no such file"}, "wrong", "no such file"),
        ({"signer": "a"}, "ok", "signed here with key a; nothing is verified here"),
        ({"verify": ("a", "b")}, "ok", "nothing is signed here"),
        ({"verify": ("a", "b")}, "ok", "only what is signed with a or b"),
        ({"verify": ("a",)}, "ok", "anything signed that Redis calls a rollback"),
        ({"signer": "a", "verify": ("a",), "operators": ("o",)}, "ok", "goes back only by an order of o"),
        ({"signer": "o", "verify": ("a",), "operators": ("o",)}, "ok", "rollbacks are ordered here with key o"),
        ({"signer": "x", "verify": ("a",), "operators": ("o",)}, "wrong", "is none of those"),
        ({"operators": ("o",)}, "warning", "an order counts only where manifests are verified"),
        ({"signer": "a", "in_environment": True}, "warning", "stands in the environment"),
        ({"signer": "a", "group_reads": True}, "warning", "read by its group"),
    ],
)
def test_each_state_of_keys(facts: dict[str, Any], level: str, words: str) -> None:
    found = judge_keys(KeyFacts(**facts))
    assert (found.level, words in found.found, found.check) == (level, True, "signing"), found.found
    assert bool(found.advice) == (level != "ok")


def test_the_keys_are_read_and_shown_by_their_ids(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(ONE.text)
    path.chmod(0o640)
    settings = Settings(signing_key=str(path), verify_keys=(TWO.public.text,), operator_keys=(ONE.public.text,))
    found = look_at_host(settings).keys
    assert found == KeyFacts(
        signer=ONE.public.id, verify=(TWO.public.id,), operators=(ONE.public.id,), group_reads=True
    )
    path.chmod(0o644)
    assert "everybody on this machine may read it" in look_at_host(settings).keys.error
    assert ONE.text[20:] not in repr(look_at_host(Settings(signing_key=ONE.text)))
    assert look_at_host(Settings(signing_key=ONE.text)).keys.in_environment
    path.unlink()
    assert "No such file" in look_at_host(settings).keys.error
