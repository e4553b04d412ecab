"""The history of a run: what clients were answered, what was published, what was done to the fleet; and every promise that it breaks. Pure.

The active generation of a model is a register: publishing writes it, each answer reads it. Whether reads are linearizable is checked
without a search, because values only grow: a read must not be of an older generation than any read or write that had ended before it
started. One sort and one pass for each question: O(n log n) for n answers.

All times are seconds of the machine's monotonic clock, which the clients and the director share.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec
from genlock.worker.demo.history import order_violations

#: What `content` says of outputs that no single checkpoint computes.
TORN = -1


class Answer(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One request as its client saw it.

    `generation` 0: none (`error` says why: "HTTP 503: …" of the service, anything else of the connection). `content`: which checkpoint
    the outputs prove to have computed them; TORN: more than one.
    """

    start: float
    end: float
    service: str
    worker: str = ""
    generation: int = 0
    version: str = ""
    content: int = 0
    stale: bool = False
    error: str = ""


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """A publish or a rollback, from `began` to `ended`, as its publisher knows it.

    `content`: of its checkpoint, 0 for a rollback; `outcome`: of the Flip, the name of an error, or what became of the publisher;
    `broken`: nobody may ever answer from it.
    """

    began: float
    ended: float
    content: int = 0
    version: str = ""
    generation: int = 0
    outcome: str = "unknown"
    broken: bool = False
    by: str = ""
    why: str = ""


class Injection(msgspec.Struct, frozen=True, kw_only=True):
    """A fault, from `began` until it was over at `ended`; `until`: the next one may begin, because the fleet had come to rest.

    `kind`: its name; `service`: the one that it struck, all if empty; `kills`: connections may break, as they would for any app; `loses`:
    what the server had committed may be lost with it, so that a publish that returned proves nothing; `forgets`: so may what was answered
    (a failover): order is promised for each worker only. `counts`: it met something; what it excuses it excuses all the same.
    """

    kind: str
    began: float
    ended: float
    until: float = 0.0
    service: str = ""
    detail: str = ""
    kills: bool = False
    loses: bool = False
    forgets: bool = False
    counts: bool = True


class Blackout(NamedTuple):
    """Nothing of the server reached this service from `began` to `ended`, to the knowledge of who cut it off."""

    service: str
    began: float
    ended: float


class History(msgspec.Struct, frozen=True, kw_only=True):
    """`answers` in any order; `committed`: (generation, version) that the fleet's own record has named; `lease_s`: of the fleet."""

    answers: Sequence[Answer]
    proposals: Sequence[Proposal] = ()
    injections: Sequence[Injection] = ()
    blackouts: Sequence[Blackout] = ()
    committed: frozenset[tuple[int, str]] = frozenset()
    lease_s: float


class Violation(NamedTuple):
    """`promise`: its number in the protocol; `at`: when (s); `what` was found."""

    promise: int
    at: float
    what: str


def violations(history: History) -> list[Violation]:
    """All of them, in the order of time."""
    found = [
        *_older_after_newer(history),
        *_unmarked_in_the_dark(history),
        *_unknown_or_refused(history),
        *_back_in_a_worker(history),
        *_not_answered(history),
        *_torn(history),
    ]
    return sorted(found, key=lambda violation: violation.at)


# --- promise 1 --------------------------------------------------------------------------------------------------------


def _older_after_newer(history: History) -> Iterator[Violation]:
    """Real-time order, over all workers, up to each moment at which the server may have forgotten."""
    forgot = sorted((i for i in history.injections if i.forgets), key=lambda injection: injection.began)
    cuts = [injection.began for injection in forgot]
    proved = _proved(history)
    for index, part in _parts(history.answers, cuts):
        since = (forgot[index - 1].until or forgot[index - 1].ended) if index else 0.0
        published = [p for p in proved if bisect_right(cuts, p.ended) == index and p.began >= since]
        for violation in order_violations([answer for answer in part if answer.start >= since], published):
            request = violation.request
            yield Violation(1, request.start, f"{violation} ({request.worker} of {request.service})")


def _proved(history: History) -> list[Proposal]:
    """Commits that no request may fall behind: those that their publisher heard of, and that no server forgot before a worker heard.

    A commit that is lost with the server's memory within its first lease may have reached nobody but its publisher.
    """
    lost = sorted(injection.began for injection in history.injections if injection.loses or injection.forgets)
    found = [proposal for proposal in history.proposals if proposal.outcome == "committed"]
    return [p for p in found if not _any_between(lost, p.began, p.ended + history.lease_s)]


def _any_between(moments: Sequence[float], since: float, until: float) -> bool:
    return bisect_right(moments, until) > bisect_right(moments, since)


def _parts(answers: Iterable[Answer], cuts: Sequence[float]) -> list[tuple[int, list[Answer]]]:
    """The answers between two cuts, by their start; one that reaches over a cut belongs to neither side."""
    parts: dict[int, list[Answer]] = defaultdict(list)
    for answer in answers:
        index = bisect_right(cuts, answer.start)
        if index == bisect_right(cuts, answer.end):
            parts[index].append(answer)
    return sorted(parts.items())


def _unmarked_in_the_dark(history: History) -> Iterator[Violation]:
    """A request that started a lease after the last word of the server, and ended before the next, cannot know what is active."""
    by_service: dict[str, list[Answer]] = defaultdict(list)
    for answer in sorted(history.answers, key=lambda answer: answer.start) if history.blackouts else ():
        by_service[answer.service].append(answer)
    for dark in history.blackouts:
        answers = by_service[dark.service]
        first = bisect_right(answers, dark.began + history.lease_s, key=lambda answer: answer.start)
        last = bisect_right(answers, dark.ended, key=lambda answer: answer.start)
        for answer in answers[first:last]:
            if answer.generation and not answer.stale and answer.end < dark.ended:
                late_ms = (answer.start - dark.began) * 1000
                yield Violation(
                    1, answer.start, f"{answer.worker} answers unmarked {late_ms:.0f} ms after it was cut off"
                )


def _torn(history: History) -> Iterator[Violation]:
    """Each answer was computed by exactly one checkpoint, and by the one that its version names (promises 1 and 6)."""
    contents = {p.version: p.content for p in history.proposals if p.version and p.content}
    for answer in history.answers:
        if answer.generation and answer.content == TORN:
            yield Violation(1, answer.start, f"{answer.worker} computes with parts of several checkpoints")
        elif answer.generation and answer.content != contents.get(answer.version, answer.content):
            wanted = contents[answer.version]
            yield Violation(
                6, answer.start, f"{answer.worker} names checkpoint {wanted} and computes with {answer.content}"
            )


# --- promises 2 to 5 --------------------------------------------------------------------------------------------------


def _unknown_or_refused(history: History) -> Iterator[Violation]:
    """Nothing is answered that was refused, that nobody published, or that was not committed (promise 3)."""
    began: dict[str, float] = {}
    broken = {p.version for p in history.proposals if p.broken}
    for proposal in history.proposals:
        began[proposal.version] = min(proposal.began, began.get(proposal.version, proposal.began))
    known = history.committed | {(p.generation, p.version) for p in history.proposals if p.outcome == "committed"}
    for answer in history.answers:
        if not answer.generation:
            continue
        if answer.version in broken:
            yield Violation(3, answer.start, f"{answer.worker} answers from a checkpoint that is broken")
        elif answer.end < began.get(answer.version, float("inf")):
            yield Violation(
                3, answer.start, f"{answer.worker} answers from {answer.version[:12]}, which nobody had published"
            )
        elif (answer.generation, answer.version) not in known:
            what = f"generation {answer.generation} of {answer.version[:12]}"
            yield Violation(3, answer.start, f"{answer.worker} answers from {what}, which the fleet never committed")


def _back_in_a_worker(history: History) -> Iterator[Violation]:
    """No process goes to a lower generation, marked or not (promise 4)."""
    by_worker: dict[str, list[Answer]] = defaultdict(list)
    for answer in history.answers:
        if answer.generation:
            by_worker[answer.worker].append(msgspec.structs.replace(answer, stale=False) if answer.stale else answer)
    for worker, answers in by_worker.items():
        for violation in order_violations(answers):
            yield Violation(4, violation.request.start, f"{worker} goes back: {violation}")


def _not_answered(history: History) -> Iterator[Violation]:
    """Requests that the service refused or let wait, and connections that broke though nothing had struck a process (promises 2 and 5)."""
    kills = [i for i in history.injections if i.kills]
    for answer in history.answers:
        if answer.error and (is_of_the_service(answer) or not any(_struck(i, answer) for i in kills)):
            yield Violation(5, answer.start, f"no answer from {answer.service}: {answer.error}")


def _struck(injection: Injection, answer: Answer) -> bool:
    """Whether a process behind this connection may have died of it."""
    is_its = injection.service in ("", answer.service)
    return is_its and injection.began <= answer.end and answer.start <= (injection.until or injection.ended)


def is_of_the_service(answer: Answer) -> bool:
    """Whether an error is genlock's own: a status of HTTP, or an answer that did not come in time; not a connection that broke."""
    return answer.error.startswith(("HTTP", "TimeoutError"))
