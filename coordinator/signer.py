"""What a process with a signing key puts its name to: manifests that it publishes, orders to go back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from .errors import GenlockError, NotTrusted, UnknownKey, Unsigned
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
        """The manifest, signed where there is a key. `before`: of what is active; `others`: of what was so, or may be before it.

        Of these only those count that are signed by a key that this process knows: anybody may have written a number there. Raises
        ManifestInvalid, SerialsUnreadable.
        """
        if self._key is None:
            return manifest
        serial = self._next(self._highest(manifest.model, [before, *others]))
        way_back = self._way_back(manifest, before)
        made = msgspec.structs.replace(manifest, fleet=self._fleet_id, serial=serial, way_back=way_back)
        return signed(made, self._key)

    def committed(self, manifest: Manifest) -> None:
        """What this process has published is active: nothing older is a way back from what is signed here from now on."""
        if self._key is None:
            return
        with suppress(GenlockError):  # the publish is done; the next one finds this one active, and writes it down
            self._serials.was_active(manifest.model, manifest.serial)

    def _way_back(self, manifest: Manifest, before: Manifest | None) -> str:
        """The version that is active, if nothing newer is known to have been: an old manifest may have been written in its place."""
        if before is None or not self._vouches(manifest.model, before):
            return ""
        serial = self._claim(before).serial
        if serial < self._serials.highest_before(manifest.model):
            return ""
        self._serials.was_active(manifest.model, serial)
        # The same content again has the same way back.
        return before.version if before.version != manifest.version else before.way_back

    def goes_back(self, manifest: Manifest, *, left: int, known: Iterable[Manifest | None], author: str) -> Manifest:
        """The manifest of what is gone back to, with this key's order to do so. `left`: the active generation; `known`: the manifests
        of what is and was active.

        Raises NotTrusted where this process's verify keys refuse that manifest, and what `published` raises.
        """
        assert self._key is not None
        if self._keyring.verify:
            check_signature(manifest, manifest.model, fleet_id=self._fleet_id, keys=self._keyring.verify)
        serial = self._next(max(manifest.serial, self._highest(manifest.model, known)))
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

    def _next(self, above: int) -> int:
        return self._serials.next(above=above, now_us=int(self._wall() * 1e6))

    def _highest(self, model: str, manifests: Iterable[Manifest | None]) -> int:
        """The highest serial of those that are vouched for. To check a signature takes 0.1 ms: the highest first, mostly it is the last."""
        highest = 0
        for one in sorted((one for one in manifests if one is not None), key=_told, reverse=True):
            if _told(one) <= highest:
                break
            if self._vouches(model, one):
                highest = max(highest, one.serial, self._claim(one).serial)
        return highest

    def _vouches(self, model: str, manifest: Manifest) -> bool:
        keys = self._keyring.verify | _own(self._key)
        try:
            check_signature(manifest, model, fleet_id=self._fleet_id, keys=keys)
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


def _told(manifest: Manifest) -> int:
    """The highest serial in it, whoever wrote that."""
    return max(manifest.serial, manifest.order.serial if manifest.order is not None else 0)


def _own(key: KeyPair | None) -> VerifyKeys:
    return VerifyKeys([key.public] if key is not None else [])
