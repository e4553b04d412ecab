"""One model in one worker: what it was told is active, what it has loaded, what it owes an answer for. Pure.

A slot is told states (`apply`) and the outcome of loads (`loaded`, `failed`), and says what it wants next: a job (`wanted`), something
to be said to Redis (`owes`), and whether it may be answered from (`is_free`). The agent owns the slots and everything that
they share: membership, lease, epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ..coordinator.calls import Say
from ..coordinator.reply import BAD, FAILED, FENCED, READY, REFUSED, State
from .trial import Trial, Tried

#: (generation, version): what identifies a content of a model; never the number alone.
Key = tuple[int, str]

#: Seconds before a failed load is tried again: doubled each time, from the first to the second.
RETRY_FROM_S, RETRY_TO_S = 0.2, 5.0


@dataclass(frozen=True)
class Told:
    """The highest record that this process was told is active (R7). `committed`, `heard`: numbers of epochs; `rollback`: the generation
    that it went back to, or 0."""

    key: Key
    committed: int
    heard: int
    manifest: str | None = None
    poison: str = ""
    pin: Mapping[str, Any] | None = None
    poisoned: Mapping[str, Any] | None = None
    rollback: int = 0


class Job(NamedTuple):
    """A load to be done beside what is shown. `purpose`: active, candidate, refresh, or fallback (the last good one on this host's
    disk, of a generation that is not known before)."""

    id: int
    model: str
    key: Key
    purpose: str
    manifest: str


class Found(NamedTuple):
    """A manifest that the fleet has under a number. `rollback`: the generation that it goes back to, by Redis's word, or 0."""

    model: str
    gen: int
    version: str
    manifest: str
    rollback: int


@dataclass(frozen=True)
class Verdict:
    """What a load of `key` came to: ready, failed or bad, and the facts that go with the answer."""

    key: Key
    said: str
    detail: Mapping[str, Any] = field(default_factory=dict)


class Slot:
    """See the module. Only the agent touches it."""

    def __init__(self, model: str, told: Told | None, *, asks_all: bool = False) -> None:
        """`asks_all`: every manifest is looked at, also of a content that is loaded already."""
        self.model, self._asks_all = model, asks_all
        self.told = told
        self.state: State | None = None  #: as last applied in this epoch
        #: A state that an open fleet showed was applied: only such a one gives a right to answer.
        self.read_open = False
        self.confirmed = False  #: the reply to this membership's last list named the model (hold before load)
        self.behind = False  #: the fleet shows less than what this process was told (R7)
        self.handles: dict[Key, int] = {}  #: what is loaded: its job's id, by which the runtime knows the payload
        self.shown: Key | None = None  #: the content that views show, with or without the right to answer
        self.warm: Key | None = None  #: the generation before, kept as the way back until a candidate begins to load
        self.manifests: dict[Key, str] = {}
        self.rollbacks: dict[Key, int] = {}  #: the generation that a manifest's went back to, by Redis's word
        self.job: Job | None = None
        self.examining: Found | None = None  #: it is being looked at, and not asked for again meanwhile
        self.verdicts: dict[Key, Verdict] = {}
        self.refreshes: tuple[str, ...] = ()  #: tasks that wait for a fresh load of what is active
        self.fallback_tried = False
        self._retry_at: dict[Key, tuple[float, float]] = {}  # when, and after how long, a failed load is tried again

    # --- what is told --------------------------------------------------------------------------------------------

    @property
    def applied(self) -> int:
        """The revision as last applied for this model in this epoch; -1: none (R3)."""
        return self.state.rev if self.state else -1

    def new_epoch(self) -> None:
        """What Redis said before counts for nothing any more; what is loaded stays."""
        self.state, self.confirmed, self.behind, self.read_open = None, False, False, False
        self.refreshes, self.examining = (), None

    def apply(self, state: State, epoch: int, *, is_open: bool) -> bool:
        """Takes a state, unless it is older than what was applied (R3). True when another generation became active.

        While a fleet is closed a heal changes what is active without any fence, so what was read then has to be read again
        after the opening::

            worker                      fleet, closed               another worker
            reads: 5 is active
                                        6 is active                 heals: it was told 6
                                        opens
            beats: has a lease
            would answer from 5, while 6 is active
        """
        if state.rev < self.applied:
            return False
        self.read_open = self.read_open or is_open
        self.state = state
        flipped = self._take_active(state, epoch)
        self._forget_unneeded()
        return flipped

    def _take_active(self, state: State, epoch: int) -> bool:
        active = state.active
        if active is None:
            self.behind = self.told is not None
            return False
        key = (active.gen, active.version)
        told = self.told
        # R7: never a lower generation, nor another content under the same number.
        self.behind = told is not None and key != told.key and active.gen <= told.key[0]
        if self.behind:
            return False
        is_known = told is not None and told.key == key
        manifest = told.manifest if told and is_known else self.manifests.get(key)
        back = told.rollback if told and is_known else self.rollbacks.get(key, 0)
        self.told = Told(key, active.epoch, epoch, manifest, active.poison, state.pin, state.poison, back)
        if told and told.key == key:
            return False
        self._alias(key)
        self._show_active()
        return True

    def _show_active(self) -> None:
        """Shows what is active as soon as it is loaded; what was shown stays warm."""
        key = self.told.key if self.told else None
        if key is None or key not in self.handles or key == self.shown:
            return
        self.warm = self.shown
        self.shown = key

    def _alias(self, key: Key) -> None:
        """A rollback to a content that is still warm is ready at once: the same bytes, verified and proven before."""
        if self._asks_all and key not in self.manifests:
            return
        for other, handle in list(self.handles.items()):
            if other[1] == key[1] and key not in self.handles and self._is_rollback(key):
                self.handles[key] = handle
                if other in self.manifests:
                    self.manifests.setdefault(key, self.manifests[other])
                self.verdicts[key] = Verdict(key, READY, {"warm": True})

    def _is_rollback(self, key: Key) -> bool:
        c = self.state.cand if self.state else None
        return c is not None and (c.gen, c.version) == key and c.rollback is not None

    @property
    def target(self) -> Key | None:
        """The candidate that this worker gets ready for: it has an entry."""
        state = self.state
        if state is None or state.cand is None or state.mine is None or not self.confirmed:
            return None
        return (state.cand.gen, state.cand.version)

    def trial(self, member: str, known: Trial | None) -> Trial | None:
        """What requests with a key are counted for now: a canary, or what is active while it is watched. `known`: the one before, which
        goes on while it counts the same, also when the candidate is not loaded here for a while: what was reported cannot begin at 0 again.
        """
        what = self._tried()
        if what is None:
            return None
        if known is not None and known.key == what.key and known.member == member:
            return known
        return Trial(self.model, what, member)

    def _tried(self) -> Tried | None:
        state, c = self.state, self.state.cand if self.state else None
        if state is None or self.told is None:
            return None
        if state.is_canary and c is not None:
            policy = c.canary.policy if c.canary else None
            return Tried((c.gen, c.step, c.share), policy)
        watch = state.watch
        return Tried((watch.gen, 0, 0), watch.policy) if watch is not None and watch.gen == self.told.key[0] else None

    def found_manifest(self, gen: int, version: str, manifest: str, now: float, rollback: int = 0) -> None:
        """The fleet's manifest of a number. It may be of another content than what is wanted here, which then is asked for again."""
        for key in (self.told.key if self.told else None, self.target):
            if key is None or key[0] != gen:
                continue
            if key[1] != version:
                self.postpone(key, now)
                continue
            self.manifests[key], self.rollbacks[key] = manifest, rollback
            if key in self.verdicts and self.verdicts[key].said == REFUSED:
                del self.verdicts[key]  # what is there now is another one
            if self.told and self.told.key == key and self.told.manifest is None:
                self.told = replace(self.told, manifest=manifest, rollback=rollback)

    def no_manifest(self, gen: int, detail: Mapping[str, Any], now: float, said: str = FAILED) -> None:
        """The fleet has no manifest of a number, or one that cannot be read, or (`said` is refused) that nobody vouches for: it cannot
        be loaded, so far."""
        for key in (self.told.key if self.told else None, self.target):
            if key is not None and key[0] == gen:
                self.postpone(key, now)
                self.verdicts[key] = Verdict(key, said, detail)

    # --- loads ---------------------------------------------------------------------------------------------------

    def begin_target(self) -> None:
        """A candidate begins to load: the way back goes, unless the candidate is that way."""
        target = self.target
        if target is None or target in self.handles or target in self.verdicts:
            return
        if self._asks_all and target not in self.manifests:
            return  # it may be the way back that is warm
        self._alias(target)
        if target not in self.handles and self.warm is not None:
            self._drop(self.warm)
            self.warm = None

    def wanted(self, now: float) -> tuple[Key, str] | None:
        """The load that is wanted most: (key, purpose). None: nothing, or not yet again."""
        active = self.told.key if self.told and self.confirmed and not self.behind and self.state is not None else None
        if active is not None and active not in self.handles and self._may_try(active, now):
            return active, "active"
        target = self.target
        # What is fenced for commits or not, loaded or not: loading it now shortens the time until it is.
        if target is not None and target not in self.handles and self._may_try(target, now):
            return target, "candidate"
        if self.refreshes and active is not None and active in self.handles and self._may_try(active, now):
            return active, "refresh"
        return None

    def _may_try(self, key: Key, now: float) -> bool:
        verdict = self.verdicts.get(key)
        if verdict is not None and verdict.said == BAD:
            return False  # bad is remembered (R13)
        return now >= self._retry_at.get(key, (0.0, 0.0))[0]

    def retry_at(self, now: float) -> float | None:
        """When, after now, a failed load is due again. What was due before has begun, or is not wanted."""
        keys = {self.target, self.told.key if self.told else None}
        times = [at for key, (at, _) in self._retry_at.items() if at > now and key in keys and not self._is_bad(key)]
        return min(times, default=None)

    def _is_bad(self, key: Key) -> bool:
        return key in self.verdicts and self.verdicts[key].said == BAD

    def loaded(self, job: Job, key: Key, detail: Mapping[str, Any]) -> None:
        """A job is done; `key` is the job's, or what the fallback turned out to be."""
        self.job = None
        self.handles[key] = job.id
        self._retry_at.pop(key, None)
        if job.purpose == "fallback":
            self.shown = self.shown or key
        else:
            self.verdicts[key] = Verdict(key, READY, detail)
            self.manifests[key] = job.manifest
            if self.told and self.told.key == key:
                self.told = replace(self.told, manifest=job.manifest)
        self._show_active()
        self._forget_unneeded()

    def failed(self, job: Job, said: str, detail: Mapping[str, Any], now: float) -> None:
        """A job came to nothing: `bad` for good, `failed` until it is tried again."""
        self.job = None
        if job.purpose == "fallback":
            return
        self.postpone(job.key, now)
        if job.purpose != "refresh" or said == BAD:
            self.verdicts[job.key] = Verdict(job.key, said, detail)

    def postpone(self, key: Key, now: float) -> None:
        """The next try of `key` comes later, each time twice as late."""
        wait = min(RETRY_TO_S, 2 * self._retry_at[key][1] if key in self._retry_at else RETRY_FROM_S)
        self._retry_at[key] = (now + wait, wait)

    def _forget_unneeded(self) -> None:
        """Lets go what is neither shown, told active, warm nor the candidate."""
        active = self.told.key if self.told else None
        needed = {self.shown, active, self.warm, self.target}
        for key in [key for key in self.handles if key not in needed]:
            self._drop(key)
        for table in (self.verdicts, self.manifests, self.rollbacks, self._retry_at):
            for key in [key for key in table if key not in needed]:
                del table[key]

    def _drop(self, key: Key) -> None:
        self.handles.pop(key, None)

    def detail_of(self, key: Key) -> Mapping[str, Any]:
        """What the load of `key` came to, for people."""
        return self.verdicts[key].detail if key in self.verdicts else {}

    # --- what it says --------------------------------------------------------------------------------------------

    def owes(self, member: str) -> Say | None:
        """The answer that the fleet waits for from this worker, derived from the state: sent again until a reply shows it (R10)."""
        state = self.state
        if state is None or not self.confirmed or (self.behind and not self.is_forgotten):
            return None
        target = self.target
        if target is not None:
            if state.is_fencing:
                if state.mine != FENCED:
                    answer = REFUSED if self._is_refused(target) else FENCED
                    return Say(member, self.model, target[0], answer, self.detail_of(target))
            elif said := self._of_candidate(target, state.mine):
                return Say(member, self.model, target[0], said, self.detail_of(target))
        return self._of_active(member, state)

    def _is_refused(self, key: Key) -> bool:
        return key in self.verdicts and self.verdicts[key].said == REFUSED

    def _of_candidate(self, target: Key, mine: str | None) -> str | None:
        verdict = self.verdicts.get(target)
        if verdict is None or mine == verdict.said or mine == READY:
            return None
        if verdict.said == FAILED and mine != "awaited":
            return None  # who is late is not waited for: nothing to say until it is ready
        return verdict.said

    def _of_active(self, member: str, state: State) -> Say | None:
        """A verdict on what is active: the proof of an unproven generation, or the alarm."""
        if state.active is None or self.told is None:
            return None
        verdict = self.verdicts.get(self.told.key)
        if verdict is None:
            return None
        proves = verdict.said == READY and state.active.unproven
        poisoned = self.told.poison in (state.poison or {})
        if proves or (verdict.said == BAD and not poisoned):
            return Say(member, self.model, self.told.key[0], verdict.said, verdict.detail)
        return None

    @property
    def is_forgotten(self) -> bool:
        """What was told is lost: nothing is active, and the manifest was never heard. Whatever is committed next is welcome."""
        return (
            self.behind
            and self.told is not None
            and self.told.manifest is None
            and not (self.state and self.state.active)
        )

    # --- what requests get ---------------------------------------------------------------------------------------

    @property
    def is_free(self) -> bool:
        """Whether views may show it under the lease: not fenced, and what is active is loaded (R1, R3, R4)."""
        if self.state is None or self.told is None or not (self.confirmed and self.read_open) or self.behind:
            return False
        return not self.state.is_fencing and self.shown == self.told.key and self.shown in self.handles

    @property
    def has_failed(self) -> bool:
        """What is active could not be loaded here, so far."""
        return self.told is not None and self.told.key not in self.handles and self.told.key in self.verdicts
