"""coordinator/signer.py: what a trainer and an operator put their names to, and above which numbers."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from genlock.coordinator.errors import UnknownKey, Unsigned, WrongSignature
from genlock.coordinator.keyring import Keyring
from genlock.coordinator.manifest import Artifact, Manifest
from genlock.coordinator.signer import Signer
from genlock.coordinator.signing import KeyPair, VerifyKeys, check_order, check_signature

FLEET = "f" * 32
TRAINER, OTHER, OPERATOR, STRANGER = (KeyPair(bytes([n]) * 32) for n in (1, 2, 3, 4))
BOTH = VerifyKeys([TRAINER.public, OTHER.public])


def plain(content: int) -> Manifest:
    return Manifest.of("m", [Artifact("model", 1, f"{content:064x}")], created_at=1.0)


def signer(folder: Path, key: KeyPair | None, *, at: float, operators: VerifyKeys | None = None) -> Signer:
    """A process of a machine of its own, whose clock shows `at`, unix seconds."""
    keyring = Keyring(key, BOTH, operators or VerifyKeys())
    return Signer(keyring, FLEET, folder, wall=lambda: at)


def test_a_trainer_signs_for_its_fleet_and_says_what_was_active_before(tmp_path: Path) -> None:
    one = signer(tmp_path, TRAINER, at=1000.0)
    first = one.published(plain(1), None)
    assert (first.fleet, first.serial, first.way_back) == (FLEET, 1_000_000_001, "")
    check_signature(first, "m", fleet_id=FLEET, keys=BOTH)
    second = one.published(plain(2), first)
    assert (second.serial, second.way_back) == (1_000_000_002, first.version)
    again = one.published(plain(2), second)
    assert again.way_back == first.version, "the same content has the same way back, not itself"


def test_another_trainer_goes_on_above_what_is_active_whatever_its_clock_says(tmp_path: Path) -> None:
    """Its clock was an hour behind: workers would have refused its next save as an old one."""
    ahead = signer(tmp_path / "a", TRAINER, at=5000.0)
    first, waiting = ahead.published(plain(1), None), ahead.published(plain(2), None)
    behind = signer(tmp_path / "b", OTHER, at=1000.0)
    assert behind.published(plain(3), first).serial == first.serial + 1
    assert behind.published(plain(3), first, [waiting, None]).serial == waiting.serial + 1, "what is in work counts too"


def test_an_old_manifest_in_the_place_of_the_active_one_is_no_way_back(tmp_path: Path) -> None:
    """Somebody wrote version 1's manifest there while version 4 was published: the trainer signed a way back of three steps."""
    first, second, third = (signer(tmp_path, TRAINER, at=1000.0).published(plain(n), None) for n in (1, 2, 3))
    signer(tmp_path, TRAINER, at=1000.0).committed(third)
    assert signer(tmp_path, TRAINER, at=1000.0).published(plain(4), first, [first, second, third]).way_back == ""
    assert signer(tmp_path, TRAINER, at=1000.0).published(plain(4), third).way_back == third.version
    elsewhere = signer(tmp_path / "e", OTHER, at=1000.0)
    assert elsewhere.published(plain(4), second).way_back == second.version
    assert elsewhere.published(plain(5), first).way_back == "", "what was found active is remembered, too"
    copied = elsewhere.published(msgspec.structs.replace(plain(9), model="n"), None)
    assert elsewhere.published(plain(5), copied).way_back == "", "another model's"


def test_a_rejected_publish_changes_no_way_back(tmp_path: Path) -> None:
    one = signer(tmp_path, TRAINER, at=1000.0)
    one.committed(first := one.published(plain(1), None))
    one.published(plain(2), first)
    assert one.published(plain(3), first).way_back == first.version


def test_a_full_disk_does_not_make_a_failure_of_what_was_committed(tmp_path: Path) -> None:
    one = signer(tmp_path, TRAINER, at=1000.0)
    first = one.published(plain(1), None)
    (tmp_path / "serials" / FLEET / "before").write_text("no folder")
    one.committed(first)


def test_after_a_way_back_without_an_order_numbers_go_on_above_what_was_left(tmp_path: Path) -> None:
    """One trainer's clock was ten minutes ahead; a policy went back from its publish. The next one, of another host, was refused."""
    first = signer(tmp_path / "b", OTHER, at=1000.0).published(plain(1), None)
    ahead = signer(tmp_path / "a", TRAINER, at=1600.0).published(plain(2), first)
    after = signer(tmp_path / "b", OTHER, at=1001.0).published(plain(3), first, [first, ahead, first])
    assert after.serial == ahead.serial + 1
    operator = signer(tmp_path / "o", OPERATOR, at=1001.0)
    back = operator.goes_back(first, left=3, known=[first, ahead, first], author="ann")
    assert back.order is not None and back.order.serial == ahead.serial + 1


def test_a_number_that_nobody_vouches_for_counts_for_nothing(tmp_path: Path) -> None:
    """Whoever writes to Redis wrote the greatest number there is: nobody could have published after it."""
    bad = signer(tmp_path / "s", STRANGER, at=1e9).published(plain(1), None)
    unsigned = msgspec.structs.replace(plain(1), serial=2**53)
    changed = msgspec.structs.replace(signer(tmp_path / "t", TRAINER, at=1.0).published(plain(1), None), serial=2**53)
    one = signer(tmp_path, TRAINER, at=1000.0)
    for number, before in enumerate((bad, unsigned, changed), 1):
        made = one.published(plain(2), before)
        assert (made.serial, made.way_back) == (1_000_000_000 + number, "")


def test_an_order_has_a_number_of_its_own_after_which_a_trainer_goes_on(tmp_path: Path) -> None:
    trainer = signer(tmp_path / "t", TRAINER, at=1000.0)
    first = trainer.published(plain(1), None)
    second = trainer.published(plain(2), first)
    operator = signer(tmp_path / "o", OPERATOR, at=3000.0)
    back = operator.goes_back(first, left=2, known=[first, second], author="ann")
    order = back.order
    assert order is not None
    assert (order.version, order.back_to, order.left, order.author) == (first.version, first.serial, 2, "ann")
    assert order.serial == 3_000_000_001 and (back.serial, back.signature) == (first.serial, first.signature)
    keys = VerifyKeys([OPERATOR.public])
    check_order(back, "m", fleet_id=FLEET, operators=keys)
    knowing = signer(tmp_path / "k", TRAINER, at=1000.0, operators=keys)
    assert knowing.published(plain(3), back).serial == order.serial + 1
    assert signer(tmp_path / "u", TRAINER, at=1000.0).published(plain(3), back).serial == 1_000_000_002, (
        "a trainer that does not know the operator's key cannot believe its number"
    )
    late = signer(tmp_path / "l", OPERATOR, at=10.0)
    assert (found := late.goes_back(first, left=2, known=[first, second], author="")).order is not None
    assert found.order.serial == second.serial + 1, "an operator's clock may be behind"


def test_an_operator_does_not_order_to_go_back_to_what_somebody_has_changed(tmp_path: Path) -> None:
    first = signer(tmp_path / "t", TRAINER, at=1000.0).published(plain(1), None)
    operator = signer(tmp_path / "o", OPERATOR, at=3000.0)
    with pytest.raises(WrongSignature):
        operator.goes_back(msgspec.structs.replace(first, message="x"), left=2, known=[], author="ann")
    with pytest.raises(Unsigned):
        operator.goes_back(plain(1), left=2, known=[], author="ann")


def test_without_keys_everything_goes_through_as_it_is(tmp_path: Path) -> None:
    none = Signer(Keyring(), FLEET, tmp_path)
    none.check_key("m")
    assert not none.signs and none.published(plain(1), None) == plain(1)
    assert not list(tmp_path.iterdir())


def test_who_would_be_refused_hears_of_it_first(tmp_path: Path) -> None:
    signer(tmp_path, TRAINER, at=1.0).check_key("m")
    with pytest.raises(Unsigned):
        signer(tmp_path, None, at=1.0).check_key("m")
    with pytest.raises(UnknownKey, match=STRANGER.public.id):
        signer(tmp_path, STRANGER, at=1.0).check_key("m")
