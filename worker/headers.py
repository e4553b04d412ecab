"""The headers of an answer and of a request: generations, versions, and the least generation that a client accepts. Pure.

With one model a value is plain (`4`), with several a dictionary of RFC 9651 (`encoder=4, ranker="9f…"`). Its keys have no upper case and
begin with a letter, names of models need not, so a key is a name with escapes: `*` and a lower-case letter stand for the upper-case
one, and `*` before a first character that is no letter stands for nothing. `ResNet` is `*res*net`, `3d` is `*3d`; a name of
lower-case letters, digits, `_`, `-` and `.` that begins with a letter is itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..coordinator.errors import HeaderInvalid, NotReady
from .view import View

GENERATION = "X-Genlock-Generation"
VERSION = "X-Genlock-Version"
STALE = "X-Genlock-Stale"
MIN_GENERATION = "X-Genlock-Min-Generation"
KEY = "X-Genlock-Key"
CANDIDATE = "X-Genlock-Candidate"

#: An integer of RFC 9651 has at most 15 digits.
_NUMBER = re.compile(r"[0-9]{1,15}\Z")
_MEMBER = re.compile(r"([a-z*][a-z0-9_.*-]*)=([0-9]{1,15})\Z")


def key_of(model: str) -> str:
    """The key of a model's name; see the module."""
    key = re.sub("[A-Z]", lambda letter: f"*{letter[0].lower()}", model)
    return key if key[0].islower() or key[0] == "*" else f"*{key}"


def of_views(views: Sequence[View]) -> list[tuple[str, str]]:
    """The headers of an answer that these were used for; of a model that was used twice the candidate counts, or
    else the older generation."""
    if len(views) == 1:
        view = views[0]
        found = [(GENERATION, str(view.generation)), (VERSION, view.version)]
        if view.candidate is not None:
            found.append((CANDIDATE, str(view.candidate)))
        return [*found, (STALE, "1")] if view.stale else found
    models: dict[str, View] = {}
    for view in sorted(views, key=lambda view: (view.candidate or 0, -view.generation)):
        models[view.model] = view
    stale = {view.model for view in views if view.stale}
    if len(models) == 1:
        one = next(iter(models.values()))
        return of_views([one.as_stale() if stale else one])
    rows = [(key_of(model), models[model]) for model in sorted(models)]
    found = [
        (GENERATION, ", ".join(f"{key}={view.generation}" for key, view in rows)),
        (VERSION, ", ".join(f'{key}="{view.version}"' for key, view in rows)),
    ]
    if tried := ", ".join(f"{key}={view.candidate}" for key, view in rows if view.candidate is not None):
        found.append((CANDIDATE, tried))
    marks = ", ".join(f"{key}=1" for key, view in rows if view.model in stale)
    return [*found, (STALE, marks)] if marks else found


class Least(NamedTuple):
    """What a request demands: one generation, of the only model that it uses, or one for each of some models, by key."""

    single: int | None
    by_key: Mapping[str, int]

    @classmethod
    def of(cls, text: str) -> Least:
        """`7`, or `encoder=4, ranker=9`. Raises HeaderInvalid."""
        text = text.strip()
        if _NUMBER.match(text):
            return cls(int(text), {})
        found: dict[str, int] = {}
        for member in text.split(","):
            match = _MEMBER.match(member.strip())
            if match is None:
                raise HeaderInvalid(
                    MIN_GENERATION, text[:200], "write a generation, or a dictionary: encoder=4, ranker=9"
                )
            found[match[1]] = int(match[2])
        return cls(None, found)

    def check(self, views: Sequence[View]) -> None:
        """Raises NotReady where a view is older than demanded; HeaderInvalid for one number and several models."""
        if self.single is not None and len({view.model for view in views}) > 1:
            why = "the request uses several models: name them, as in encoder=4, ranker=9"
            raise HeaderInvalid(MIN_GENERATION, str(self.single), why)
        for view in views:
            least = self.single if self.single is not None else self.by_key.get(key_of(view.model), 0)
            if view.generation < least:
                why = f"generation {view.generation} is active, the request demands {least} or later ({MIN_GENERATION})"
                raise NotReady(view.model, why)
