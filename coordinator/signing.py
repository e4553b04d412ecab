"""Signatures: who vouches for a manifest, and who ordered a way back. Ed25519 (RFC 8032). Pure: keys in, bytes out; files are keyring's.

A trainer signs the canonical form of its manifest, which has the fleet's id, the model, the version and a serial that only grows; an
operator signs an order, which has what is gone back to and a serial of its own. Both begin with a constant of their own: a signature
of the one can never pass for the other. Numbers order, signatures vouch: see serials for the numbers.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
from blake3 import blake3

from .errors import ForeignManifest, SettingsInvalid, UnknownKey, Unsigned, WrongOrder, WrongSignature
from .manifest import Manifest, Order, Signature, decode

SECRET, PUBLIC = "genlock-secret-", "genlock-public-"
#: Bytes of a key, public or secret (RFC 8032, 5.1.5); 43 characters of base64 without its padding.
KEY_BYTES = 32
#: What a text that may show a secret is searched for before anybody sees it.
_SHOWN_SECRET = re.compile(re.escape(SECRET) + r"[^\s,]*")

_MANIFEST, _ORDER = b"genlock manifest 1\n", b"genlock order 1\n"


def without_secrets(text: str) -> str:
    """The same text, with `genlock-secret-…` for every secret key in it."""
    return _SHOWN_SECRET.sub(SECRET + "…", text)


@dataclass(frozen=True)
class PublicKey:
    """What a signature is checked with. Anybody may know it."""

    raw: bytes

    @classmethod
    def of(cls, text: str) -> PublicKey:
        """The key in `genlock-public-…`; ValueError with what is wrong, without the text of a secret."""
        return cls(_raw_of(text, PUBLIC))

    @property
    def text(self) -> str:
        return PUBLIC + _text_of(self.raw)

    @property
    def id(self) -> str:
        """16 hex digits that stand for the key where people compare it, and beside each signature."""
        return blake3(b"genlock key 1\n" + self.raw).hexdigest()[:16]

    def vouches(self, message: bytes, value: str) -> bool:
        """Whether `value` (base64) is this key's signature of the message."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            found = base64.b64decode(value, validate=True)
            Ed25519PublicKey.from_public_bytes(self.raw).verify(found, message)
        except (InvalidSignature, ValueError):
            return False
        return base64.b64encode(found).decode() == value  # base64 has several texts for some bytes


@dataclass(frozen=True, repr=False)
class KeyPair:
    """What signs. Its text and its seed are secret, and shown by nothing here."""

    seed: bytes

    @classmethod
    def generate(cls) -> KeyPair:
        """A new one, from the system's randomness."""
        import secrets

        return cls(secrets.token_bytes(KEY_BYTES))  # RFC 8032, 5.1.5: any 32 random bytes

    @classmethod
    def of(cls, text: str) -> KeyPair:
        """The key in `genlock-secret-…`; ValueError with what is wrong, without the text."""
        return cls(_raw_of(text, SECRET))

    @property
    def text(self) -> str:
        return SECRET + _text_of(self.seed)

    @property
    def public(self) -> PublicKey:
        private = _ed25519().Ed25519PrivateKey.from_private_bytes(self.seed)
        return PublicKey(private.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> Signature:
        private = _ed25519().Ed25519PrivateKey.from_private_bytes(self.seed)
        return Signature(self.public.id, base64.b64encode(private.sign(message)).decode())


class VerifyKeys:
    """Public keys of which any may have signed: several while one is being replaced by another."""

    def __init__(self, keys: Iterable[PublicKey] = ()) -> None:
        self._keys = {key.id: key for key in keys}
        if self._keys:
            _ed25519()  # better to hear now that it is not installed than at the first manifest

    def __bool__(self) -> bool:
        return bool(self._keys)

    def __contains__(self, key: PublicKey) -> bool:
        return self._keys.get(key.id) == key

    def __or__(self, other: VerifyKeys) -> VerifyKeys:
        return VerifyKeys([*self._keys.values(), *other._keys.values()])

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self._keys)

    def knows(self, signature: Signature) -> bool:
        """Whether the key that it names is one of these."""
        return signature.key in self._keys

    def vouch(self, signature: Signature, message: bytes) -> bool:
        """Whether one of these keys has signed the message."""
        return self.knows(signature) and self._keys[signature.key].vouches(message, signature.value)


def _ed25519() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        why = f"signatures need the package cryptography ({error}): pip install cryptography"
        raise SettingsInvalid("GENLOCK_SIGNING_KEY or GENLOCK_VERIFY_KEYS", "…", why) from error
    return ed25519


def _raw_of(text: str, prefix: str) -> bytes:
    kinds = {SECRET: "a secret key", PUBLIC: "a public key"}
    for other, kind in kinds.items():
        if other != prefix and text.startswith(other):
            raise ValueError(f"it is {kind}, and {kinds[prefix]} ({prefix}…) belongs here")
    if not text.startswith(prefix):
        raise ValueError(f"{kinds[prefix]} begins with {prefix}")
    try:
        raw = base64.b64decode(text.removeprefix(prefix) + "=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != KEY_BYTES or prefix + _text_of(raw) != text:
        raise ValueError(f"behind {prefix} a key has 43 characters of A-Z a-z 0-9 - _, as `genlock keys` writes them")
    return raw


def _text_of(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


# --- manifests ---------------------------------------------------------------------------------------------------------


def signed(manifest: Manifest, key: KeyPair) -> Manifest:
    """The manifest with the signature of `key`; raises ManifestInvalid where it has no room for one."""
    made = msgspec.structs.replace(manifest, signature=key.sign(_message_of(manifest)), order=None)
    return decode(made.encode())


def check_signature(manifest: Manifest, model: str, *, fleet_id: str, keys: VerifyKeys) -> None:
    """Raises Unsigned, UnknownKey, WrongSignature or ForeignManifest unless one of `keys` has signed it for this fleet and model."""
    signature = manifest.signature
    if signature is None:
        raise Unsigned(model, manifest.version)
    if not keys.knows(signature):
        raise UnknownKey(model, signature.key, keys.ids)
    if not keys.vouch(signature, _message_of(manifest)):
        raise WrongSignature(model, signature.key)
    if manifest.fleet != fleet_id:
        raise ForeignManifest(model, "fleet", fleet_id, manifest.fleet)
    if manifest.model != model:
        raise ForeignManifest(model, "model", model, manifest.model)


def _message_of(manifest: Manifest) -> bytes:
    return _MANIFEST + msgspec.structs.replace(manifest, signature=None, order=None).encode()


# --- orders ------------------------------------------------------------------------------------------------------------


def ordered(manifest: Manifest, order: Order, key: KeyPair) -> Manifest:
    """The manifest with an order to go back to it, signed by `key`; raises ManifestInvalid where it has no room for one."""
    order = msgspec.structs.replace(order, signature=key.sign(_message_of_order(order)))
    return decode(msgspec.structs.replace(manifest, order=order).encode())


def check_order(manifest: Manifest, model: str, *, fleet_id: str, operators: VerifyKeys) -> None:
    """Raises WrongOrder unless the manifest's order is one of these operators', for just this content, fleet and model."""
    order = manifest.order
    if order is None or order.signature is None:
        raise WrongOrder(model, "it is not signed")
    if not operators.knows(order.signature):
        known = ", ".join(operators.ids)
        raise WrongOrder(model, f"key {order.signature.key} is none of GENLOCK_OPERATOR_KEYS ({known})")
    if not operators.vouch(order.signature, _message_of_order(order)):
        raise WrongOrder(model, f"the signature of key {order.signature.key} is not of this order")
    if (order.fleet, order.model) != (fleet_id, model):
        raise WrongOrder(model, f"it is for model {order.model} of fleet {order.fleet}")
    if (order.version, order.back_to) != (manifest.version, manifest.serial):
        raise WrongOrder(model, f"it goes back to version {order.version[:12]}, serial {order.back_to}")
    if order.serial <= order.back_to:
        raise WrongOrder(model, f"its serial {order.serial} is not above {order.back_to}, to which it goes back")


def _message_of_order(order: Order) -> bytes:
    return _ORDER + msgspec.json.encode(msgspec.structs.replace(order, signature=None), order="sorted")
