"""What a process with a signing key puts its name to: manifests that it publishes, orders to go back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from .errors import NotTrusted, UnknownKey, Unsigned
from .keyring import Keyring
from .manifest import Manifest, Order
from .serials import Claim, Serials
from .signing import KeyPair, VerifyKeys, check_order, check_signature, ordered, signed


class Signer:
    """Signs for one fleet, or lets manifests through as they are where there is no key (`signs`)."""

    def __init__(
        self, keyring: Keyring, fleet_id: str, state_dir: Path, *, wall: Callable[[], float] = time.time
    ) -> None:
        self._key, self._keyring, self._fleet_id, self._wall = keyring.signing, keyring, fleet_id, wall
        self._serials = Serials(state_dir, fleet_id)

    @property
    def signs(self) -> bool:
        return self._key is not None

    def check_key(self, model: str) -> None:
        """Raises Unsigned or UnknownKey where what is published here would be refused by this process's own verify keys."""
        if not self._keyring.verify:
            return
        if self._key is None:
            raise Unsigned(model, "")
        if self._key.public not in self._keyring.verify:
            raise UnknownKey(model, self._key.public.id, self._keyring.verify.ids)

    def published(
        self, manifest: Manifest, before: Manifest | None, others: Iterable[Manifest | None] = ()
    ) -> Manifest:
        """The manifest, signed where there is a key. `before`: of what is active; `others`: of what may become so before it.

        Of these only those count that are signed by a key that this process knows: anybody may have written a number there. Raises
        ManifestInvalid, SerialsUnreadable, StoreFull, ArtifactRefused.
        """
        if self._key is None:
            return manifest
        vouched = [one for one in (before, *others) if one is not None and self._vouches(one)]
        serial = self._next(one for found in vouched for one in (found.serial, self._claim(found).serial))
        way_back = before.version if before is not None and before in vouched else ""
        if before is not None and way_back == manifest.version:
            way_back = before.way_back  # the same content again has the same way back
        made = msgspec.structs.replace(manifest, fleet=self._fleet_id, serial=serial, way_back=way_back)
        return signed(made, self._key)

    def goes_back(self, manifest: Manifest, *, left: int, before: Manifest | None, author: str) -> Manifest:
        """The manifest of what is gone back to, with this key's order to do so. `left`: the active generation, `before`: its manifest.

        Raises NotTrusted where this process's verify keys refuse that manifest, and what `published` raises.
        """
        assert self._key is not None
        if self._keyring.verify:
            check_signature(manifest, manifest.model, fleet_id=self._fleet_id, keys=self._keyring.verify)
        known = before is not None and self._vouches(before)
        serial = self._next([manifest.serial, *([self._claim(before).serial] if before is not None and known else [])])
        order = Order(
            fleet=self._fleet_id,
            model=manifest.model,
            version=manifest.version,
            back_to=manifest.serial,
            left=left,
            serial=serial,
            author=author,
            at=self._wall(),
        )
        return ordered(manifest, order, self._key)

    def _next(self, above: Iterable[int]) -> int:
        return self._serials.next(above=max(above, default=0), now_us=int(self._wall() * 1e6))

    def _vouches(self, manifest: Manifest) -> bool:
        keys = self._keyring.verify | _own(self._key)
        try:
            check_signature(manifest, manifest.model, fleet_id=self._fleet_id, keys=keys)
        except NotTrusted:
            return False
        return True

    def _claim(self, manifest: Manifest) -> Claim:
        """With its order, if that is of a key that is known here."""
        keys = self._keyring.operators | _own(self._key)
        try:
            check_order(manifest, manifest.model, fleet_id=self._fleet_id, operators=keys)
        except NotTrusted:
            return Claim.of(manifest, is_rollback=False, orders_count=False)
        return Claim.of(manifest, is_rollback=False, orders_count=True)


def _own(key: KeyPair | None) -> VerifyKeys:
    return VerifyKeys([key.public] if key is not None else [])
