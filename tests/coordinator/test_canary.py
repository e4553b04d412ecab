"""coordinator/canary.py: which requests a candidate answers, what is counted of both groups, and what a policy says of it."""

import json
import random
import subprocess
import sys
from typing import Any

import pytest
from genlock.coordinator.canary import (
    ALL,
    BUCKETS,
    LEAST_REQUESTS,
    MOST_STEPS,
    SHORTEST_S,
    TIMEOUT_S,
    WIDER,
    Both,
    Canary,
    Figures,
    Policy,
    both_of,
    bucket_of,
    hundredths,
    judge,
    place_of,
    policy_of,
    share_of,
)
from genlock.coordinator.errors import BadInput

# --- what people write -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "share"), [("5%", 0.05), (" 5 % ", 0.05), ("0.05", 0.05), (0.05, 0.05), (1, 1.0), ("100%", 1.0)]
)
def test_a_share_is_written_in_either_way(written: Any, share: float) -> None:
    assert share_of(written) == pytest.approx(share)


@pytest.mark.parametrize("written", ["", "%", "five", "0", 0, "-5%", "101%", 5, "nan", "inf%", "5%%"])
def test_what_is_no_share_is_refused(written: Any) -> None:
    """`canary=5` was meant as 5 %: taken for all of them it would be no canary."""
    with pytest.raises(BadInput) as caught:
        share_of(written)
    assert str(caught.value) == f"share: '{str(written).strip()}' is no share of the requests: write it as 5% or 0.05"


@pytest.mark.parametrize(
    ("written", "steps"),
    [
        ("5%", (0.05,)),
        (0.05, (0.05,)),
        ("5%, 25%", (0.05, 0.25)),
        ("0.05,25%", (0.05, 0.25)),
        ((0.05, "25%"), (0.05, 0.25)),
        (["0.01%", 0.9999], (0.0001, 0.9999)),
    ],
)
def test_steps_are_one_share_or_several(written: Any, steps: tuple[float, ...]) -> None:
    canary = Canary.of(written)
    assert canary.steps == pytest.approx(steps)
    assert (canary.policy, canary.timeout_s) == (None, TIMEOUT_S)


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("25%,5%", "25 %, 5 %"),
        ("5%,5%", "5 %, 5 %"),
        ("100%", "100 %"),
        ("5%,100%", "5 %, 100 %"),
        ("5%,5.001%", "5 %, 5.001 %"),
        ((), "nothing"),
        ([(n + 1) / 100 for n in range(MOST_STEPS + 1)], ", ".join(f"{n + 1} %" for n in range(MOST_STEPS + 1))),
    ],
)
def test_steps_that_do_not_grow_below_all_are_refused(written: Any, shown: str) -> None:
    """A share never falls, and the last step is followed by all of the requests."""
    with pytest.raises(BadInput) as caught:
        Canary.of(written)
    assert str(caught.value) == (
        f"canary: its steps are {shown}: write 1 to {MOST_STEPS} growing shares below 100 %, such as 5%,25%"
    )


def test_as_many_steps_as_there_may_be() -> None:
    assert len(Canary.of([(n + 1) / 100 for n in range(MOST_STEPS)]).steps) == MOST_STEPS


@pytest.mark.parametrize("timeout_s", [0, -1, 7 * 86400 + 1, float("nan"), float("inf")])
def test_a_canary_has_an_end(timeout_s: float) -> None:
    """R8: nobody would ever abort a forgotten one."""
    with pytest.raises(BadInput, match=r"canary_timeout: it is .* s: more than 0, a week at most"):
        Canary.of("5%", timeout_s=timeout_s)


def test_a_policy_is_written_as_its_parts() -> None:
    text = "errors=1%, latency=1.25 ,score=0.02,requests=100,seconds=2.5"
    policy = Policy(errors=0.01, latency=1.25, score=0.02, requests=100, seconds=2.5)
    assert Policy.of(text) == policy
    assert Policy.of("") == Policy() == Policy(errors=0.01, latency=None, score=None, requests=200, seconds=10.0)
    assert Policy.of("errors=none,score=0") == Policy(errors=None, score=0.0)
    assert Canary.of("5%", text).policy == Canary.of("5%", policy).policy == policy


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "error=1%",
            "policy: 'error=1%' is none of its parts: write NAME=VALUE with errors, latency, score, requests,",
        ),
        ("errors", "policy: 'errors' is none of its parts"),
        ("errors=", "policy: errors= is no number"),
        ("latency=fast", "policy: latency=fast is no number"),
        ("requests=2.5", "policy: requests=2.5 is no number"),
        ("errors=2", "policy: errors is 2.0: it goes from 0 to 1"),
        ("errors=nan", "policy: errors is nan: it goes from 0 to 1"),
        ("latency=0.5", "policy: latency is 0.5: it is 1 or more"),
        ("score=-1", "policy: score is -1.0: it is 0 or more"),
        ("requests=19", "policy: requests is 19: it is 20 or more"),
        ("seconds=-1", "policy: seconds is -1.0: it is 0 or more"),
        ("errors=none", "policy: no limit is set: errors, latency or score"),
        ("errors=none,latency=inf", "policy: a number is not finite: say a limit that can be reached, or none"),
        ("seconds=inf", "policy: a number is not finite"),  # JSON has none, so no worker would have read this policy
    ],
)
def test_a_policy_that_is_none_says_what_is_wrong(text: str, sentence: str) -> None:
    with pytest.raises(BadInput) as caught:
        Policy.of(text)
    assert str(caught.value).startswith(sentence)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(BadInput, match=r"errors is 2: .*; latency is 0: .*; requests is 1: "):
        Policy(errors=2, latency=0, requests=1)


def test_a_plan_goes_to_the_scripts_in_whole_numbers() -> None:
    """Shares in ten-thousandths, milliseconds rounded up; the policy as one text that only workers read."""
    policy = Policy(errors=0.5)
    plan = json.loads(Canary.of("0.01%,12.5%", policy, 0.0001).encode())
    assert plan == {"steps": [1, 1250], "length": "1", "policy": policy.encode()}
    assert policy_of(plan["policy"]) == policy
    assert "policy" not in json.loads(Canary.of("5%").encode())


def test_a_share_is_at_least_a_hundredth_of_a_percent() -> None:
    assert [hundredths(share) for share in (1e-9, 0.0001, 0.05, 1)] == [1, 1, 500, ALL]


# --- whose requests ----------------------------------------------------------------------------------------------------


def test_places_are_spread_evenly() -> None:
    """5 % of the users are 5 % whatever their keys look like. 20,000 keys: five standard deviations are 0.8 %."""
    for keys in ([str(n) for n in range(20_000)], [f"user-{n:08x}@example.org" for n in range(20_000)]):
        places = [place_of("m", 7, key) for key in keys]
        assert min(places) >= 0 and max(places) < ALL
        for share in (0.05, 0.25, 0.5):
            part = sum(place < hundredths(share) for place in places) / len(places)
            assert part == pytest.approx(share, abs=5 * (share * (1 - share) / len(places)) ** 0.5)


def test_whom_the_candidate_has_answered_it_goes_on_to_answer() -> None:
    """Shares grow: nobody goes back to the generation before in the middle of a session."""
    keys = [f"u{n}" for n in range(2000)]
    groups = [{key for key in keys if place_of("m", 7, key) < share} for share in (500, 2500, 5000)]
    assert groups[0] < groups[1] < groups[2] and groups[0]


def test_it_is_not_always_the_same_whom_a_candidate_meets() -> None:
    """The generation is the salt, and the model: of the 1,000 of one canary about a tenth are in the next one, too."""
    keys = [f"u{n}" for n in range(10_000)]
    group = {key for key in keys if place_of("m", 7, key) < 1000}
    for other in (("m", 8), ("n", 7)):
        both = sum(place_of(*other, key) < 1000 for key in group)
        assert len(group) * 0.06 < both < len(group) * 0.14


def test_a_place_is_the_same_in_every_process() -> None:
    """Python's own hash has a salt of its own in each: a user would meet another generation on each worker."""
    keys = ["", "u1", "é漢\U0001f600", "\udcff", "a\0b", "x" * 10_000]
    script = (
        "import json, sys\nfrom genlock.coordinator.canary import place_of\n"
        "print(json.dumps([place_of('m', 7, key) for key in json.loads(sys.argv[1])]))"
    )
    words = [sys.executable, "-c", script, json.dumps([key[:100] for key in keys])]
    found = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout
    assert json.loads(found) == [place_of("m", 7, key[:100]) for key in keys]
    assert place_of("m", 7, "u1") == 3214, "workers of two releases share a fleet while they are deployed"


# --- figures -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.0, 1e-9, SHORTEST_S, 0.00011, 0.001, 0.05, 1.0, 99.0])
def test_a_bucket_is_the_first_that_is_not_below(seconds: float) -> None:
    bucket = bucket_of(seconds)
    assert SHORTEST_S * WIDER**bucket >= seconds * (1 - 1e-9)
    assert bucket == 0 or SHORTEST_S * WIDER ** (bucket - 1) < seconds


def test_whatever_takes_longer_is_in_the_last_bucket() -> None:
    assert bucket_of(1e9) == BUCKETS - 1
    assert SHORTEST_S * WIDER ** (BUCKETS - 2) > 100


def test_a_percentile_is_known_to_the_width_of_a_bucket() -> None:
    random_ = random.Random(7)
    seconds = sorted(random_.lognormvariate(-4, 1) for _ in range(5000))
    slow: dict[str, float] = {}
    for span in seconds:
        bucket = str(bucket_of(span))
        slow[bucket] = slow.get(bucket, 0) + 1
    figures = Figures(requests=5000, seconds=sum(seconds), slow=slow)
    for part in (0.5, 0.95, 1.0):
        exact = seconds[round(part * 5000) - 1]
        found = figures.percentile_s(part)
        assert found is not None and exact <= found * (1 + 1e-9) and found <= exact * WIDER
    assert figures.mean_s == pytest.approx(sum(seconds) / 5000)


def test_what_nobody_has_counted_has_no_figures() -> None:
    assert Both().shown() == {
        group: {"requests": 0, "errors": 0, "mean_s": None, "p95_s": None, "score": None}
        for group in ("active", "candidate")
    }
    assert Figures().error_share == 0


def test_figures_are_shown_to_people_in_their_units() -> None:
    figures = Figures(requests=10, errors=2, seconds=0.4, scored=4, score=3, squares=3, slow={"0": 9, "24": 1})
    shown = figures.shown()
    assert shown == {
        "requests": 10,
        "errors": 2,
        "mean_s": pytest.approx(0.04),
        "p95_s": pytest.approx(SHORTEST_S * WIDER**24),
        "score": 0.75,
    }
    assert figures.error_share == 0.2


# --- what stands in Redis is not trusted -------------------------------------------------------------------------------

DEEP = '{"x":' + "[" * 100_000


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "x",
        "[]",
        "5",
        '{"errors":"1%"}',
        '{"errors":2}',
        '{"requests":1}',
        '{"latency":1e999}',
        DEEP,
        "\udc00",
    ],
)
def test_what_is_no_policy_is_none(text: str | None) -> None:
    """It comes from Redis, and the thread that reads it holds the worker's lease: people decide then."""
    assert policy_of(text) is None


@pytest.mark.parametrize(
    "text",
    [
        None,
        b"",
        b"\xff",
        "[]",
        '{"active":5}',
        '{"active":{"requests":"9"}}',
        '{"active":{"slow":[1]}}',
        '{"candidate":{"seconds":1e999}}',
        DEEP,
    ],
)
def test_what_is_no_sum_is_none(text: str | bytes | None) -> None:
    assert both_of(text) is None


HOSTILE = (
    {"requests": 100, "errors": 5000},
    {"requests": 100, "errors": -5000},
    {"requests": -100, "scored": -5, "score": 1e300, "squares": -1e300},
    {"requests": 100, "scored": 100, "score": 1.7e308, "squares": 1.7e308},
    {"requests": 1e300, "errors": 1e300, "slow": {"9" * 400: 1.0}},
    {"requests": 100, "slow": {"9" * 5000: 100.0}},
    {"requests": 100, "slow": {"99999": 100.0, "-1": 5.0, "²": 5.0, "x": 5.0, "٣": 5.0}},
    {"requests": 100, "slow": {"3": -100.0}},
    {"requests": 100, "seconds": -1e300, "slow": {"3": 1e300}},
)


@pytest.mark.parametrize("candidate", HOSTILE, ids=range(len(HOSTILE)))
def test_figures_that_cannot_be_are_judged_without_an_error(candidate: Any) -> None:
    """More errors than requests, a bucket without end: each ended the thread that holds the worker's lease, or the page of status."""
    policies = [Policy(errors=0.01, requests=20, seconds=0), Policy(errors=None, latency=1.5, score=0.1, requests=20)]
    for active in ({"requests": 100, "scored": 100, "slow": {"3": 100}}, *HOSTILE):
        both = both_of(json.dumps({"active": active, "candidate": candidate}))
        assert both is not None
        assert {judge(policy, both, 60.0).word for policy in policies} <= {"wait", "pass", "fail"}
        assert json.dumps(both.shown())


# --- the judgement -----------------------------------------------------------------------------------------------------


def group(requests: int = 1000, errors: int = 0, *, ms: float = 10, score: float | None = None) -> Figures:
    """That many requests, each of the same length, and each with the same score."""
    scored = 0 if score is None else requests
    value = score or 0.0
    return Figures(
        requests=requests,
        errors=errors,
        seconds=requests * ms / 1000,
        slow={str(bucket_of(ms / 1000)): requests},
        scored=scored,
        score=scored * value,
        squares=scored * value * value,
    )


def said(policy: Policy, active: Figures, candidate: Figures, age_s: float = 60.0) -> str:
    return judge(policy, Both(active, candidate), age_s).word


def test_a_step_is_passed_with_enough_requests_and_time() -> None:
    """Of each group: 5 % of the requests come to the candidate, and it is the few that say little."""
    policy = Policy(requests=200, seconds=10)
    assert said(policy, group(), group(200), 10) == "pass"
    assert said(policy, group(), group(199), 10) == "wait"
    assert said(policy, group(199), group(), 10) == "wait"
    assert said(policy, group(), group(200), 9.9) == "wait"
    why = judge(policy, Both(group(), group(50)), 5.2).why
    assert why == "50 of 200 requests of each group, 5 of 10 s"


def test_errors_are_compared_with_those_of_the_active_generation() -> None:
    """A tenth of the requests fail in both: clients send what no model can read."""
    policy = Policy(errors=0.01)
    assert said(policy, group(1000, 100), group(1000, 109)) == "pass"
    assert said(policy, group(1000, 100), group(1000, 111)) == "fail"
    assert said(policy, group(1000, 100), group(1000, 0)) == "pass"
    why = judge(policy, Both(group(1000, 100), group(1000, 111)), 60).why
    assert why == "errors 11.1 % against 10 %: more than 1 % more"
    assert judge(policy, Both(group(), group()), 60).why == "errors 0 % against 0 %"


def test_latency_is_compared_at_the_95th_percentile() -> None:
    """A bucket is a tenth wide, and that much neither of them is known better."""
    policy = Policy(errors=None, latency=1.5)
    assert said(policy, group(ms=10), group(ms=14)) == "pass"
    assert said(policy, group(ms=10), group(ms=15)) == "pass"
    assert said(policy, group(ms=10), group(ms=20)) == "fail"
    assert "ms: more than 1.5 times as long" in judge(policy, Both(group(ms=10), group(ms=20)), 60).why
    few_slow = Figures(requests=1000, slow={"40": 960.0, "90": 40.0})
    assert said(policy, Figures(requests=1000, slow={"40": 1000.0}), few_slow) == "pass"
    many_slow = Figures(requests=1000, slow={"40": 940.0, "90": 60.0})
    assert said(policy, Figures(requests=1000, slow={"40": 1000.0}), many_slow) == "fail"


def test_the_width_of_a_bucket_is_no_difference() -> None:
    """Two latencies that are the same but for a thousandth may be in two buckets, wherever these meet."""
    policy = Policy(errors=None, latency=1.0)
    for bucket in range(BUCKETS - 2):
        active, next_, other = (Figures(requests=200, slow={str(bucket + more): 200.0}) for more in range(3))
        assert (said(policy, active, next_), said(policy, active, other)) == ("pass", "fail"), bucket


def test_a_latency_that_nobody_knows_is_waited_for() -> None:
    """Requests have begun, none has ended: that is no reason to pass it."""
    policy = Policy(errors=None, latency=1.5)
    assert said(policy, group(), Figures(requests=1000)) == "wait"
    assert said(policy, Figures(requests=1000), group()) == "wait"


def test_scores_are_compared_by_their_means() -> None:
    policy = Policy(errors=None, score=0.02)
    assert said(policy, group(score=0.90), group(score=0.89)) == "pass"
    assert said(policy, group(score=0.90), group(score=0.95)) == "pass"
    assert said(policy, group(score=0.90), group(score=0.87)) == "fail"
    assert said(policy, group(), group(score=0.9)) == "wait", "nothing to compare with"
    assert said(policy, group(score=0.9), group()) == "wait"


def test_each_limit_is_looked_at_and_only_those() -> None:
    active, worse = group(score=1.0), group(1000, 500, ms=1000, score=0.0)
    assert said(Policy(errors=None, latency=200), active, worse) == "pass"
    assert said(Policy(errors=0.6, latency=200, score=1.0), active, worse) == "pass"
    assert said(Policy(errors=0.6, latency=2), active, worse) == "fail"
    why = judge(Policy(errors=0.6, latency=200, score=1.0), Both(active, worse), 60).why
    assert why.startswith("errors 50 % against 0 %, p95 ") and why.endswith(", score 0 against 1")


def test_what_is_surely_worse_fails_at_once() -> None:
    """The half of its answers are errors: nobody waits for 200 requests, nor for ten seconds."""
    policy = Policy(errors=0.01, requests=200, seconds=10)
    word, why = judge(policy, Both(group(380), group(LEAST_REQUESTS, LEAST_REQUESTS // 2)), 0.1)
    assert (word, why) == ("fail", "errors 50 % against 0 % after 20 requests")
    assert said(policy, group(380), group(LEAST_REQUESTS - 1, LEAST_REQUESTS - 1), 0.1) == "wait"
    assert said(policy, group(380), group(LEAST_REQUESTS, 2), 0.1) == "wait", "two errors may be chance"
    assert said(policy, group(LEAST_REQUESTS), group(380, 19), 0.1) == "wait", "that 20 requests went well says little"
    by_score = Policy(errors=None, score=0.02)
    assert said(by_score, group(380, score=0.9), group(20, score=0.5), 0.1) == "fail"
    assert said(by_score, group(19, score=0.9), group(20, score=0.5), 0.1) == "wait"


def canary_of(random_: random.Random, policy: Policy, active: float, candidate: float, share: float = 0.2) -> Any:
    """One canary as the fleet sees it: reports of 20 requests, each judged, until it ends. (word, requests of the candidate, why)."""
    counts = {"active": [0, 0], "candidate": [0, 0]}
    for turn in range(1, 1000):
        for _ in range(20):
            name, part = ("candidate", candidate) if random_.random() < share else ("active", active)
            counts[name][0] += 1
            counts[name][1] += random_.random() < part
        groups = [Figures(*counts[name], slow={"9": counts[name][0]}) for name in ("active", "candidate")]
        both = Both(*groups)
        word, why = judge(policy, both, turn / 5)
        if word != "wait":
            return word, counts["candidate"][0], why
    raise AssertionError("it never ends")


@pytest.mark.parametrize("part", [0.02, 0.2])
def test_of_equal_canaries_few_are_lost_to_noise(part: float) -> None:
    """Looked at fifty times on its way, a canary that is as good as what is active must not fail early because of a bad minute, not even
    where no more errors are allowed: of 200 at most one in a hundred does."""
    random_, policy = random.Random(1), Policy(errors=0.0, requests=200, seconds=0)
    ends = [canary_of(random_, policy, part, part) for _ in range(200)]
    early = [why for word, requests, why in ends if word == "fail" and requests < 200]
    assert len(early) <= 2, early
    assert sum(word == "pass" for word, _, _ in ends) > 60, "at the end each limit is taken as it stands"


def test_a_canary_that_is_much_worse_is_caught_early() -> None:
    """A third of its answers fail: after some 30 requests of the 400 that it would otherwise have spoiled."""
    random_, policy = random.Random(2), Policy(errors=0.02, requests=400, seconds=0)
    ends = [canary_of(random_, policy, 0.05, 0.35) for _ in range(300)]
    assert {word for word, _, _ in ends} == {"fail"}
    spent = sorted(requests for _, requests, _ in ends)
    assert spent[150] <= 40 and spent[285] <= 100


def test_a_candidate_that_hangs_does_not_pass() -> None:
    """It answers nobody, so nothing of it fails: what never ends is no success, and many of them are errors."""
    policy = Policy(requests=200, seconds=10)
    hung = Figures(requests=200)
    assert said(policy, group(), hung) != "pass"
    half = Figures(requests=400, slow={"48": 250.0})
    assert said(policy, group(), half) == "fail"
    under_way = Figures(requests=210, slow={"48": 205.0})
    assert said(policy, group(), under_way) == "pass", "some requests are under way whenever one looks"


def test_a_watch_is_not_ended_by_chance() -> None:
    """Every worker looks once in a lease for ten minutes, at a generation that is as good as the one before."""
    random_, policy = random.Random(3), Policy(errors=0.01, requests=200, seconds=0)
    ended = 0
    for _ in range(100):
        requests = errors = 0
        known = group(4000, sum(random_.random() < 0.02 for _ in range(4000)))
        for _ in range(200):
            requests += 20
            errors += sum(random_.random() < 0.02 for _ in range(20))
            if judge(policy, Both(known, group(requests, errors)), 1.0, is_watch=True).word == "fail":
                ended += 1
                break
    assert ended <= 2
    assert judge(policy, Both(group(4000), group(400, 40)), 1.0, is_watch=True).word == "fail"
