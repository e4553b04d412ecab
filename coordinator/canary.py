"""A canary: which requests its candidate answers, what is counted of both groups, and the policy that promotes or aborts it. Pure.

A request takes part by its key (of a user, a session). The candidate answers it when `place_of` of the key is below the step's share, so a
key that the candidate has answered once it goes on to answer as shares grow, on every worker; the salt is the candidate's generation,
so that it is not always the same keys that meet what is new. The other requests with a key are the group that it is compared with.

Every worker reports what it counted, and hears what all have counted; whoever hears enough judges (`judge`) and says so to the
fleet, under a request id that all of them share. So nobody has to be alive for it but the workers that answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from itertools import pairwise
from math import ceil, isfinite, log, sqrt
from typing import Any, NamedTuple

import msgspec

from .errors import BadInput

#: What a share is counted in: hundredths of a percent (lua/_model.lua has it too).
ALL = 10_000
#: Steps that a canary may have (lua/_model.lua has it too).
MOST_STEPS = 16
#: Seconds that a step may take before the canary is aborted, where nobody says otherwise: long enough for a person to look.
TIMEOUT_S = 3600.0
#: Buckets of latency: each is a tenth wider than the one before, from a tenth of a millisecond; the last begins above 100 s.
SHORTEST_S, WIDER, BUCKETS = 0.0001, 1.1, 150
#: Standard deviations that a group must be off before a judgement ahead of enough requests: 1 in 700 canaries that are as good is lost.
SURE = 3.0
#: The share of a group's requests that may be under way at the moment of a report; what is above it has hung, or died with its process.
UNDER_WAY = 0.05
#: Requests of each group without which nothing is said at all.
LEAST_REQUESTS = 20

#: Of the requests with a key: "5%", 0.05, or several that grow, "5%,25%".
Share = str | float | Sequence[str | float]


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """When a canary goes on by itself. A limit that is None is not looked at.

    `errors`: the candidate's share of failed requests may be greater than the active generation's by this much. `latency`: its 95th
    percentile may be that many times as long. `score`: its mean score (`held.score(x)`) may be lower by this much. `requests`: as many of
    each group, and `seconds`: so long, before a step is passed.
    """

    errors: float | None = 0.01
    latency: float | None = None
    score: float | None = None
    requests: int = 200
    seconds: float = 10.0

    def __post_init__(self) -> None:
        limits = (self.errors, self.latency, self.score)
        numbers = [number for number in (*limits, self.seconds) if number is not None]
        rules = {
            f"errors is {self.errors}: it goes from 0 to 1": self.errors is None or 0 <= self.errors <= 1,
            f"latency is {self.latency}: it is 1 or more": self.latency is None or self.latency >= 1,
            f"score is {self.score}: it is 0 or more": self.score is None or self.score >= 0,
            f"requests is {self.requests}: it is {LEAST_REQUESTS} or more": self.requests >= LEAST_REQUESTS,
            f"seconds is {self.seconds}: it is 0 or more": self.seconds >= 0,
            "a number is not finite: say a limit that can be reached, or none": all(map(isfinite, numbers)),
            "no limit is set: errors, latency or score": any(limit is not None for limit in limits),
        }
        if wrong := [rule for rule, is_kept in rules.items() if not is_kept]:
            raise BadInput("policy", "; ".join(wrong))

    @classmethod
    def of(cls, text: str) -> Policy:
        """`errors=1%,latency=1.25,score=0.02,requests=200,seconds=10`, any of them; the others by default. Raises BadInput."""
        found: dict[str, Any] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, equals, value = (word.strip() for word in part.partition("="))
            if name not in cls.__struct_fields__ or not equals:
                known = ", ".join(cls.__struct_fields__)
                raise BadInput("policy", f"{part!r} is none of its parts: write NAME=VALUE with {known}")
            found[name] = None if value == "none" else _number_of(name, value)
        return cls(**found)

    def encode(self) -> str:
        """As the fleet keeps it."""
        return msgspec.json.encode(self).decode()


def _number_of(name: str, text: str) -> float | int:
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        return int(text) if name == "requests" else number
    except ValueError:
        raise BadInput("policy", f"{name}={text} is no number") from None


def policy_of(text: str | None) -> Policy | None:
    """What `Policy.encode` made; None for what is none: then people decide."""
    try:
        return msgspec.json.decode(text or "", type=Policy)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeEncodeError, RecursionError, BadInput):
        return None


class Canary(msgspec.Struct, frozen=True):
    """How a candidate is tried: `steps`, growing shares of the requests with a key (0 to 1), of which the last is followed by all; who
    decides: the policy, or without one people; `timeout_s`: how long a step may take before the canary is aborted.
    """

    steps: tuple[float, ...]
    policy: Policy | None = None
    timeout_s: float = TIMEOUT_S

    def __post_init__(self) -> None:
        shares = [0, *(hundredths(step) for step in self.steps), ALL]
        is_growing = all(before < share for before, share in pairwise(shares))
        if not (1 <= len(self.steps) <= MOST_STEPS and is_growing):
            shown = ", ".join(f"{step * 100:g} %" for step in self.steps) or "nothing"
            raise BadInput(
                "canary", f"its steps are {shown}: write 1 to {MOST_STEPS} growing shares below 100 %, such as 5%,25%"
            )
        if not 0 < self.timeout_s <= 7 * 86400:
            raise BadInput("canary_timeout", f"it is {self.timeout_s:g} s: more than 0, a week at most")

    @classmethod
    def of(
        cls,
        steps: str | float | Sequence[float | str],
        policy: Policy | str | None = None,
        timeout_s: float | None = None,
    ) -> Canary:
        """`5%`, `0.05`, `5%,25%` or a sequence of such; the policy as itself or as its text. Raises BadInput."""
        parts = steps.split(",") if isinstance(steps, str) else [steps] if isinstance(steps, float | int) else steps
        chosen = Policy.of(policy) if isinstance(policy, str) else policy
        return cls(tuple(map(share_of, parts)), chosen, TIMEOUT_S if timeout_s is None else timeout_s)

    def encode(self) -> str:
        """As the scripts read it."""
        plan = {"steps": [hundredths(step) for step in self.steps], "length": str(ceil(self.timeout_s * 1000))}
        return msgspec.json.encode(plan | ({"policy": self.policy.encode()} if self.policy else {})).decode()


def share_of(value: str | float) -> float:
    """A share from 0 to 1 of `5%`, `0.05` or 0.05. Raises BadInput."""
    text = str(value).strip()
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise BadInput("share", f"{text!r} is no share of the requests: write it as 5% or 0.05")
    return share


def hundredths(share: float) -> int:
    """A share in hundredths of a percent, at least one."""
    return max(1, round(share * ALL))


def place_of(model: str, generation: int, key: str) -> int:
    """Where a key stands among all, from 0 to ALL − 1: the same in every process."""
    digest = blake2b(f"{model}\0{generation}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) % ALL


# --- what is counted -----------------------------------------------------------------------------------------------------


class Figures(msgspec.Struct, frozen=True):
    """What one group has done since a step began. `seconds`: of those that ended, summed; `scored`, `score`, `squares`: how many
    scores, their sum and that of their squares; `slow`: bucket of latency → how many."""

    requests: float = 0
    errors: float = 0
    seconds: float = 0.0
    scored: float = 0
    score: float = 0.0
    squares: float = 0.0
    slow: dict[str, float] = {}

    @property
    def ended(self) -> float:
        """Requests that are over."""
        return sum(self.slow.values())

    @property
    def error_share(self) -> float:
        """Of the requests; those that never end are errors, too, where they are more than can be under way just now."""
        lost = max(0.0, self.requests - self.ended)
        failed = self.errors + (lost if lost > self.requests * UNDER_WAY else 0.0)
        return min(1.0, failed / self.requests) if self.requests else 0.0

    @property
    def mean_s(self) -> float | None:
        return self.seconds / self.ended if self.ended else None

    @property
    def mean_score(self) -> float | None:
        return self.score / self.scored if self.scored else None

    def percentile_s(self, part: float) -> float | None:
        """Seconds within which that part of the requests ended, to the width of a bucket; None: none has."""
        wanted = part * self.ended
        passed = 0.0
        for bucket in range(BUCKETS):
            passed += self.slow.get(str(bucket), 0.0)
            if passed >= wanted > 0:
                return SHORTEST_S * WIDER**bucket
        return None

    def shown(self) -> dict[str, Any]:
        """For people: `requests`, `errors`, `mean_s`, `p95_s`, `score`."""
        more = {"mean_s": self.mean_s, "p95_s": self.percentile_s(0.95), "score": self.mean_score}
        return {"requests": int(self.requests), "errors": int(self.errors), **more}


class Both(msgspec.Struct, frozen=True):
    """The figures of the two groups that are compared."""

    active: Figures = Figures()
    candidate: Figures = Figures()

    def shown(self) -> dict[str, Any]:
        """For people: group → figures."""
        return {"active": self.active.shown(), "candidate": self.candidate.shown()}


def both_of(text: str | bytes | None) -> Both | None:
    """What a script has summed; None for what is none."""
    try:
        return msgspec.json.decode(text, type=Both) if text else None
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError):
        return None


def bucket_of(seconds: float) -> int:
    """The bucket of a latency: the first one whose upper end, SHORTEST_S × WIDER^bucket, is not below it."""
    if seconds <= SHORTEST_S:
        return 0
    return min(BUCKETS - 1, ceil(log(seconds / SHORTEST_S) / log(WIDER)))


# --- the judgement -------------------------------------------------------------------------------------------------------


class Judgement(NamedTuple):
    """`word`: wait, pass or fail; `why`, with the numbers."""

    word: str
    why: str


def judge(policy: Policy, both: Both, age_s: float, *, is_watch: bool = False) -> Judgement:
    """What the policy says of these figures, `age_s` after the step began.

    Ahead of enough requests a canary fails only when its errors or scores are worse by more than is allowed *and* SURE standard deviations
    (a difference of two shares or two means; the sum of both variances); with enough of them each limit is taken as it stands. What
    is watched after its commit (`is_watch`) is looked at again and again, and chance would have it fail in the end: there only what is
    that certain counts, and a latency that is off by another bucket.
    """
    found, known = both.candidate, both.active
    least = min(found.ended, known.ended)
    if is_watch:
        return _watched(policy, found, known, least)
    if least >= LEAST_REQUESTS and (why := _surely_worse(policy, found, known)):
        return Judgement("fail", why)
    if least < policy.requests or age_s < policy.seconds:
        needed = f"{int(least)} of {policy.requests} requests of each group, {age_s:.0f} of {policy.seconds:g} s"
        return Judgement("wait", needed)
    return _compared(policy, found, known)


def _watched(policy: Policy, found: Figures, known: Figures, least: float) -> Judgement:
    if least < policy.requests:
        return Judgement("wait", f"{int(least)} of {policy.requests} requests")
    if why := _surely_worse(policy, found, known):
        return Judgement("fail", why)
    slow, usual = found.percentile_s(0.95), known.percentile_s(0.95)
    if policy.latency is not None and slow and usual and slow > policy.latency * usual * WIDER**2 * _ROUNDING:
        return Judgement("fail", f"p95 {slow * 1000:.3g} ms against {usual * 1000:.3g} ms")
    return Judgement("pass", "")


def _compared(policy: Policy, found: Figures, known: Figures) -> Judgement:
    facts: list[str] = []
    if policy.errors is not None:
        excess = found.error_share - known.error_share
        facts.append(f"errors {_percent(found.error_share)} against {_percent(known.error_share)}")
        if excess > policy.errors:
            return Judgement("fail", f"{facts[-1]}: more than {_percent(policy.errors)} more")
    if policy.latency is not None:
        slow, usual = found.percentile_s(0.95), known.percentile_s(0.95)
        if slow is None or usual is None:
            return Judgement("wait", "no latency is known of one of the groups")
        facts.append(f"p95 {slow * 1000:.3g} ms against {usual * 1000:.3g} ms")
        if slow > policy.latency * usual * WIDER * _ROUNDING:  # both are known to the width of a bucket
            return Judgement("fail", f"{facts[-1]}: more than {policy.latency:g} times as long")
    if policy.score is not None:
        low, usual = found.mean_score, known.mean_score
        if low is None or usual is None or min(found.scored, known.scored) < LEAST_REQUESTS:
            return Judgement("wait", "one of the groups has too few scores")
        facts.append(f"score {low:.4g} against {usual:.4g}")
        if usual - low > policy.score:
            return Judgement("fail", f"{facts[-1]}: lower by more than {policy.score:g}")
    return Judgement("pass", ", ".join(facts))


def _surely_worse(policy: Policy, found: Figures, known: Figures) -> str:
    """Why it is certain enough already, or nothing."""
    if policy.errors is not None:
        excess = found.error_share - known.error_share
        noise = sqrt(sum(_share_variance(group) for group in (found, known)))
        if excess - SURE * noise > policy.errors:
            shares = f"errors {_percent(found.error_share)} against {_percent(known.error_share)}"
            return f"{shares} after {int(found.requests)} requests"
    if policy.score is not None and min(found.scored, known.scored) >= LEAST_REQUESTS:
        low, usual = found.mean_score or 0.0, known.mean_score or 0.0
        noise = sqrt(sum(_mean_variance(group) for group in (found, known)))
        if usual - low - SURE * noise > policy.score:
            return f"score {low:.4g} against {usual:.4g} after {int(found.scored)} scores"
    return ""


#: What powers of WIDER are off by at most.
_ROUNDING = 1.000001


def _share_variance(group: Figures) -> float:
    """Of the share of errors, with one success and one failure more than were seen: no group is without doubt (Agresti, Coull)."""
    total = group.requests + 2
    share = max(0.0, (group.error_share * group.requests + 1) / total)
    return share * (1 - share) / total


def _mean_variance(group: Figures) -> float:
    mean = group.score / group.scored
    return max(0.0, group.squares / group.scored - mean * mean) / group.scored


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"


def canary_of(share: Share | None, policy: Policy | str | None, timeout: float | None) -> Canary | None:
    """The canary of these arguments of publish; None: there is to be none. Raises BadInput."""
    if share is not None:
        return Canary.of(share, policy, timeout)
    if policy is not None or timeout is not None:
        raise BadInput("canary", "a policy and a timeout are those of a canary: say its share too, as in canary='5%'")
    return None
