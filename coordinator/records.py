"""What stands in Redis, as people read it: Snapshot, Record, Event, Hint. Pure: bytes in, values out.

Nothing here decides anything; what cannot be read is left out rather than believed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import msgspec

from .reply import Active, Candidate, Watched, Whole


def as_object(text: str | bytes | None) -> dict[str, Any]:
    """The JSON object in `text`, or an empty one."""
    try:
        value = msgspec.json.decode(text or b"{}")
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def as_number(value: Any) -> int:
    """The whole number that a text of a script says, or 0: digits of other scripts are none, nor is what has more than 16 of them."""
    text = _text(value) if isinstance(value, bytes | str) else ""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 16 else 0


class Record(msgspec.Struct, frozen=True):
    """A model's record; see lua/_model.lua."""

    next: Whole
    rev: Whole = 0
    active: Active | None = None
    cand: Candidate | None = None
    waits: dict[str, Any] | None = None
    pin: dict[str, Any] | None = None
    watch: Watched | None = None
    poison: dict[str, Any] | list[Any] = {}
    committed: dict[str, dict[str, Any]] | list[Any] = {}

    @property
    def phase(self) -> str:
        """idle, preparing, canary or fencing."""
        return self.cand.phase if self.cand else "idle"


class Said(Mapping[str, Any]):
    """The JSON object that a worker wrote of itself, read when somebody looks into it: of a thousand most are as they were."""

    __slots__ = ("_found", "_text")

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._found: dict[str, Any] | None = None

    @property
    def _object(self) -> dict[str, Any]:
        if self._found is None:
            self._found = as_object(self._text)
        return self._found

    def __getitem__(self, key: str) -> Any:
        return self._object[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._object)

    def __len__(self) -> int:
        return len(self._object)

    def __eq__(self, other: object) -> bool:
        return self._text == other._text if isinstance(other, Said) else super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]  # as that of every mapping


@dataclass(frozen=True)
class Member:
    """A live worker process, as it shows itself: what it holds, and what it says of itself."""

    id: str
    beat: int
    holds: tuple[str, ...]
    about: Mapping[str, Any]


@dataclass(frozen=True)
class Snapshot:
    """A fleet at one instant."""

    epoch: int
    is_open: bool
    lease_s: float
    revision: int
    members: tuple[Member, ...]
    models: Mapping[str, Record]
    tasks: Mapping[str, Mapping[str, Any]]

    @cached_property
    def holders(self) -> Counter[str]:
        """Model → how many members hold it."""
        return Counter(model for member in self.members for model in set(member.holds))

    @classmethod
    def of(cls, fleet: _Hash, members: _Hash, holds: _Hash, models: _Hash, workers: _Hash) -> Snapshot:
        """From the five hashes of the fleet."""
        row = {_text(k): _text(v) for k, v in fleet.items()}
        lists = {_text(k): tuple(_text(v).split()[1:]) for k, v in holds.items() if k != b"@"}
        about = {_text(k): Said(v) for k, v in workers.items()}
        found = [
            Member(_text(k), as_number(v), lists.get(_text(k), ()), about.get(_text(k), {}))
            for k, v in members.items()
            if k != b"@"
        ]
        records = {_text(k): record for k, v in models.items() if k != b"@" and (record := read_record(v))}
        return cls(
            epoch=as_number(row.get("epoch", "0")),
            is_open=row.get("open") == "1",
            lease_s=as_number(row.get("lease", "0")) / 1000,
            revision=as_number(row.get("revision", "0")),
            members=tuple(sorted(found, key=lambda m: as_number(m.id))),
            models=dict(sorted(records.items())),
            tasks=as_object(row.get("tasks")),
        )


_Hash = Mapping[bytes, bytes]


def read_record(data: bytes) -> Record | None:
    """The record of a model, or None where it is not one."""
    try:
        return msgspec.json.decode(data, type=Record, strict=False)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError):
        return None


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


class Event(NamedTuple):
    """An entry of the audit log: its id (ms of the server's clock, a dash, a number), what happened, to which model, the facts."""

    id: str
    at: float
    what: str
    model: str
    facts: dict[str, Any]

    @classmethod
    def of(cls, entry_id: bytes | str, fields: Mapping[bytes, bytes]) -> Event:
        name = _text(entry_id)
        row = {_text(k): _text(v) for k, v in (fields or {}).items()}
        at = as_number(name.partition("-")[0]) / 1000
        return cls(name, at, row.get("what", "?"), row.get("model", ""), as_object(row.get("facts")))


class Hint(NamedTuple):
    """Something has changed: look at the state. Never more than a hint (R14)."""

    epoch: int
    revision: int
    model: str

    @classmethod
    def of(cls, data: bytes | str) -> Hint | None:
        """The hint in a message; None for anything else that somebody published there."""
        words = _text(data).split(" ")
        if len(words) != 3:
            return None
        return cls(as_number(words[0]), as_number(words[1]), words[2])
