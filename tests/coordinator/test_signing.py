"""coordinator/signing.py: whatever is changed in what was signed is refused; a signature counts for one thing only."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from typing import Any

import msgspec
import pytest
from genlock.coordinator.errors import (
    ForeignManifest,
    ManifestInvalid,
    SettingsInvalid,
    UnknownKey,
    Unsigned,
    WrongOrder,
    WrongSignature,
)
from genlock.coordinator.manifest import Artifact, Golden, Manifest, Order, Signature, Source, decode
from genlock.coordinator.signing import (
    KeyPair,
    PublicKey,
    VerifyKeys,
    check_order,
    check_signature,
    ordered,
    signed,
    without_secrets,
)
from hypothesis import given, settings
from hypothesis import strategies as st

FLEET = "f" * 32
TRAINER, OPERATOR = KeyPair(b"t" * 32), KeyPair(b"o" * 32)
KEYS = VerifyKeys([TRAINER.public])
PLAIN = msgspec.structs.replace(
    Manifest.of(
        "digits",
        [Artifact("cnn", 9, "a" * 64), Artifact("svm", 8, "b" * 64)],
        created_at=1.5,
        sources={"cnn": Source("/out/cnn.pt", 77)},
        author="ann",
        message="run 41",
        metrics={"loss": 0.25},
    ),
    fleet=FLEET,
    serial=1_700_000_000_000_000,
    way_back="c" * 64,
)
SIGNED = signed(PLAIN, TRAINER)
ORDER = Order(fleet=FLEET, model="digits", version=PLAIN.version, back_to=PLAIN.serial, left=7, serial=PLAIN.serial + 5)
ORDERED = ordered(SIGNED, msgspec.structs.replace(ORDER, author="olga", at=2.0), OPERATOR)


def check(manifest: Manifest, keys: VerifyKeys = KEYS) -> None:
    check_signature(manifest, "digits", fleet_id=FLEET, keys=keys)


def check_back(manifest: Manifest, operators: VerifyKeys | None = None) -> None:
    operators = VerifyKeys([OPERATOR.public]) if operators is None else operators
    check_order(manifest, "digits", fleet_id=FLEET, operators=operators)


# --- keys --------------------------------------------------------------------------------------------------------------


def test_a_key_is_its_text() -> None:
    made = KeyPair.generate()
    assert KeyPair.of(made.text) == made and PublicKey.of(made.public.text) == made.public
    assert made != KeyPair.generate()
    assert len(made.public.id) == 16 and made.public.id != KeyPair.generate().public.id


def test_a_secret_is_shown_nowhere() -> None:
    assert TRAINER.text.removeprefix("genlock-secret-") not in repr(TRAINER) + str(TRAINER) + repr(vars(KEYS))
    assert without_secrets(f"a={TRAINER.text},b {TRAINER.text}") == "a=genlock-secret-…,b genlock-secret-…"


@given(
    st.one_of(
        st.text(),
        st.text(max_size=50).map("genlock-public-".__add__),
        st.binary().map(base64.urlsafe_b64encode).map(lambda b: "genlock-public-" + b.decode()),
    )
)
def test_no_text_is_a_key_by_accident(text: str) -> None:
    """What is taken is written again just so: no two texts are one key."""
    try:
        assert PublicKey.of(text).text == text
    except ValueError:
        pass


def test_the_signature_is_that_of_the_standard() -> None:
    """RFC 8032, 7.1, test 3: other programs can check what genlock signs."""
    key = KeyPair(bytes.fromhex("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7"))
    assert key.public.raw.hex() == "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025"
    said = base64.b64decode(key.sign(bytes.fromhex("af82")).value).hex()
    assert said.startswith("6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac")


def test_importing_the_coordinator_does_not_load_what_signs() -> None:
    """Milliseconds and megabytes, for those alone who have keys."""
    code = (
        "import sys, genlock.coordinator.fleet, genlock.coordinator.settings; sys.exit('cryptography' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_the_library_that_signs_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric", None)
    with pytest.raises(SettingsInvalid, match="pip install cryptography"):
        VerifyKeys([PublicKey(b"k" * 32)])
    VerifyKeys()


# --- manifests ---------------------------------------------------------------------------------------------------------


def test_what_is_signed_is_believed_after_any_journey() -> None:
    check(SIGNED)
    check(decode(SIGNED.encode()))
    check(decode(json.dumps(json.loads(SIGNED.encode()), indent=1)))  # written anew by another program
    check(ORDERED)
    assert (SIGNED.version, SIGNED.poison) == (PLAIN.version, PLAIN.poison)


def test_a_manifest_from_before_there_were_signatures_is_read() -> None:
    old = {
        k: v
        for k, v in json.loads(PLAIN.encode()).items()
        if k not in ("fleet", "serial", "way_back", "signature", "order")
    }
    found = decode(json.dumps(old))
    assert (found.fleet, found.serial, found.way_back, found.signature, found.order) == ("", 0, "", None, None)
    with pytest.raises(Unsigned):
        check(found)


CHANGED: dict[str, Any] = {
    "model": "other",
    "artifacts": (Artifact("cnn", 9, "a" * 64), Artifact("svm", 8, "d" * 64)),
    "created_at": 1.6,
    "sources": {},
    "author": "eve",
    "message": "",
    "metrics": {"loss": 0.24},
    "fleet": "e" * 32,
    "serial": PLAIN.serial + 1,
    "way_back": "",
    "version": "d" * 64,
    "golden": Golden("d" * 64, 1),
}


@pytest.mark.parametrize("field", CHANGED)
def test_any_changed_field_is_refused(field: str) -> None:
    with pytest.raises(WrongSignature):
        check(msgspec.structs.replace(SIGNED, **{field: CHANGED[field]}))


def test_every_field_is_signed() -> None:
    """A field that comes later is signed too, or says here why not."""
    assert CHANGED.keys() | {"signature", "order"} == {field.name for field in msgspec.structs.fields(Manifest)}


@settings(max_examples=300)
@given(st.integers(0, len(ORDERED.encode()) - 1), st.integers(1, 255))
def test_any_changed_byte_is_refused_or_changes_nothing(place: int, by: int) -> None:
    """No byte is outside of both signatures: what decodes at all is refused, unless it means the same as before."""
    data = bytearray(ORDERED.encode())
    data[place] ^= by
    try:
        found = decode(bytes(data))
    except Exception as error:
        assert type(error).__name__ in ("ManifestInvalid", "InvalidName")
        return
    if found == ORDERED:
        return
    refused = []
    for looks in (check, check_back):
        try:
            looks(found)
        except (Unsigned, UnknownKey, WrongSignature, ForeignManifest, WrongOrder) as error:
            refused.append(error)
    assert refused


def test_a_signature_has_one_text() -> None:
    """The last character of base64 has bits that mean nothing: another text of the same bytes would be another manifest."""
    assert SIGNED.signature is not None
    value = SIGNED.signature.value
    twin = value[:-3] + chr(ord(value[-3]) + 1) + "=="
    assert base64.b64decode(twin) == base64.b64decode(value)
    with pytest.raises(WrongSignature):
        check(msgspec.structs.replace(SIGNED, signature=Signature(SIGNED.signature.key, twin)))


@pytest.mark.parametrize(
    "value", ("", "x", "é", "=" * 8, base64.b64encode(bytes(64)).decode(), base64.b64encode(bytes(63)).decode())
)
def test_what_is_no_signature_is_refused(value: str) -> None:
    with pytest.raises(WrongSignature):
        check(msgspec.structs.replace(SIGNED, signature=Signature(TRAINER.public.id, value)))


def test_another_fleet_model_or_key_is_refused() -> None:
    with pytest.raises(ForeignManifest, match="for fleet ffff"):
        check_signature(SIGNED, "digits", fleet_id="a" * 32, keys=KEYS)
    with pytest.raises(ForeignManifest, match="for model digits"):
        check_signature(SIGNED, "other", fleet_id=FLEET, keys=KEYS)
    with pytest.raises(UnknownKey, match=OPERATOR.public.id):
        check(signed(PLAIN, OPERATOR))
    check(signed(PLAIN, OPERATOR), KEYS | VerifyKeys([OPERATOR.public]))
    with pytest.raises(WrongSignature):  # another's signature under a known key's id
        made = signed(PLAIN, OPERATOR)
        assert made.signature is not None
        check(msgspec.structs.replace(made, signature=Signature(TRAINER.public.id, made.signature.value)))


def test_a_manifest_without_room_for_a_signature_is_refused_before_it_is_proposed() -> None:
    full = msgspec.structs.replace(PLAIN, sources={f"{n:03}": Source("x" * 4000, 1) for n in range(16)})
    full = msgspec.structs.replace(full, message="m" * (65_536 - len(full.encode()) + len(full.message) - 60))
    decode(full.encode())
    with pytest.raises(ManifestInvalid, match="bytes"):
        signed(full, TRAINER)


# --- orders ------------------------------------------------------------------------------------------------------------

CHANGED_ORDER: dict[str, Any] = {
    "fleet": "e" * 32,
    "model": "other",
    "version": "d" * 64,
    "back_to": PLAIN.serial - 1,
    "left": 8,
    "serial": PLAIN.serial + 6,
    "author": "eve",
    "at": 3.0,
    "signature": None,
}


def test_an_order_counts_for_what_it_says() -> None:
    check_back(ORDERED)
    check_back(decode(ORDERED.encode()))
    with pytest.raises(WrongOrder, match="not signed"):
        check_back(SIGNED)


@pytest.mark.parametrize("field", CHANGED_ORDER)
def test_any_changed_field_of_an_order_is_refused(field: str) -> None:
    assert CHANGED_ORDER.keys() == {one.name for one in msgspec.structs.fields(Order)}
    assert ORDERED.order is not None
    order = msgspec.structs.replace(ORDERED.order, **{field: CHANGED_ORDER[field]})
    with pytest.raises(WrongOrder):
        check_back(msgspec.structs.replace(ORDERED, order=order))


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("fleet", "e" * 32, "of fleet eeee"),
        ("model", "other", "for model other"),
        ("version", "d" * 64, "goes back to version dddd"),
        ("back_to", PLAIN.serial - 1, "goes back to version"),
        ("serial", PLAIN.serial, "is not above"),
    ],
)
def test_an_order_for_something_else_is_refused_though_it_is_rightly_signed(field: str, value: Any, why: str) -> None:
    order = msgspec.structs.replace(ORDER, **{field: value})
    with pytest.raises(WrongOrder, match=why):
        check_back(ordered(SIGNED, order, OPERATOR))


def test_a_trainers_key_orders_nothing() -> None:
    with pytest.raises(WrongOrder, match="none of GENLOCK_OPERATOR_KEYS"):
        check_back(ordered(SIGNED, ORDER, TRAINER))
    check_back(ordered(SIGNED, ORDER, TRAINER), KEYS)


def test_a_signature_of_the_one_is_none_of_the_other() -> None:
    """The same key for both: what was signed as a manifest is never taken for an order, nor the other way round."""
    assert SIGNED.signature is not None and ORDERED.order is not None
    mixed = msgspec.structs.replace(ORDER, signature=SIGNED.signature)
    with pytest.raises(WrongOrder, match="not of this order"):
        check_back(msgspec.structs.replace(SIGNED, order=mixed), KEYS)
    assert not TRAINER.public.vouches(SIGNED.encode(), SIGNED.signature.value), "its own constant stands before it"
