"""When a publish that failed is tried again."""

import errno

import pytest
from genlock.coordinator.errors import (
    ArtifactRefused,
    FlipRejected,
    FlipSuperseded,
    GenlockError,
    InvalidName,
    LockHeld,
    OutcomeUnknown,
    Pinned,
    Poisoned,
    RedisUnreachable,
    SettingsInvalid,
    StoreFull,
)
from genlock.coordinator.watching.attempts import MAX_PAUSE_S, Attempts, is_final


def refused_by(cause: Exception) -> ArtifactRefused:
    error = ArtifactRefused("p", str(cause))
    error.__cause__ = cause
    return error


def test_pauses_grow_up_to_a_minute_and_begin_anew_after_an_end() -> None:
    attempts, now, pauses = Attempts(), 0.0, []
    for _ in range(9):
        attempts.failed(StoreFull("/s", "full"), now)
        pauses.append(attempts.due - now)
        now = attempts.due
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60] and MAX_PAUSE_S == 60
    attempts.ended()
    assert attempts.due < 0
    attempts.failed(StoreFull("/s", "full"), now)
    assert attempts.due == now + 1


def test_a_cause_is_news_once() -> None:
    """A pin of a weekend must not fill the disk of who watches; and when the pin is gone but Redis is too, that is news."""
    attempts = Attempts()
    held = [LockHeld("m", "x", 0.0, waited) for waited in (1.0, 2.0)]
    assert [attempts.failed(error, 0.0) for error in held] == [True, False]
    assert attempts.failed(RedisUnreachable("r", "gone"), 0.0) and not attempts.failed(RedisUnreachable("r", "no"), 0.0)
    attempts.ended()
    assert attempts.failed(RedisUnreachable("r", "gone"), 0.0)


@pytest.mark.parametrize(
    ("error", "final"),
    [
        (FlipRejected("m", 1, "v", "why"), True),
        (FlipSuperseded("m", "v"), True),
        (Poisoned("m", "v", "why"), True),
        (ArtifactRefused("p", "torn"), True),
        (InvalidName("m/x"), True),
        (Pinned("m", "me", 0.0, "", 1), False),
        (LockHeld("m", "x", 0.0, 1.0), False),
        (OutcomeUnknown("m", "q", "why"), False),
        (RedisUnreachable("r", "gone"), False),
        (SettingsInvalid("GENLOCK_LEASE", "3", "another"), False),  # who mends it need not touch the files
        (StoreFull("/s", "full"), False),
        (refused_by(OSError(errno.ESTALE, "Stale file handle")), False),  # a server that was restarted
        (refused_by(OSError(errno.EINVAL, "Invalid argument")), True),  # what zipfile meets in an archive that is torn
        (refused_by(ValueError("header")), True),
    ],
)
def test_what_the_same_files_would_meet_again_is_final(error: GenlockError, final: bool) -> None:
    assert is_final(error) is final
