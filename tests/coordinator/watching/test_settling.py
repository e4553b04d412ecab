"""When files may be taken."""

import os
from pathlib import Path

import pytest
from genlock.coordinator.watching.settling import (
    COARSE_TICK_S,
    OTHERS_S,
    SETTLED_S,
    FileIdentity,
    Idle,
    Seen,
    Settling,
    Take,
    Wait,
)
from hypothesis import given
from hypothesis import strategies as st


def identity(number: int, *, ctime_ns: int | None = None) -> FileIdentity:
    return FileIdentity(1, number, 10, 5, 1_000_000_001 + number if ctime_ns is None else ctime_ns)


def one(number: int) -> Seen:
    return {"model": identity(number)}


def test_a_file_is_taken_once_it_is_unchanged_for_a_while() -> None:
    settling = Settling(SETTLED_S)
    assert settling.saw(one(1), 100.0) == Wait(101.0)
    assert settling.saw(one(2), 100.9) == Wait(101.9)
    assert settling.saw(one(2), 101.5) == Wait(101.9)
    assert settling.saw(one(2), 101.9) == Take()
    settling.taken(one(2))
    assert settling.saw(one(2), 500.0) == Idle()
    assert settling.saw(one(1), 501.0) == Wait(502.0)  # an older one that was put back: different, not newer


def test_a_file_that_is_open_for_writing_waits_for_all_of_it_again() -> None:
    settling = Settling(SETTLED_S)
    settling.saw(one(1), 0.0)
    assert settling.saw(one(1), 1.0) == Take()
    assert settling.is_written(1.0) == Wait(2.0)
    assert settling.saw(one(1), 1.5) == Wait(2.0)
    assert settling.saw(one(1), 2.0) == Take()


def test_a_clock_of_whole_seconds_is_waited_out() -> None:
    """A file of a FAT disk is written twice within two seconds: the second write leaves the same times, and size. Whoever took it
    between the two would never see the second one."""
    coarse = {"model": identity(1, ctime_ns=7_000_000_000)}
    settling = Settling(SETTLED_S)
    assert settling.saw(coarse, 0.0) == Wait(COARSE_TICK_S)
    assert settling.saw(coarse, COARSE_TICK_S) == Take()


def test_several_files_wait_for_each_other() -> None:
    settling = Settling(SETTLED_S)
    a, b = identity(1), identity(2)
    assert settling.saw({"a": a, "b": None}, 0.0) == Idle(("b",))
    assert settling.saw({"a": a, "b": b}, 10.0) == Wait(11.0)
    assert settling.saw({"a": a, "b": b}, 11.0) == Take()
    settling.taken({"a": a, "b": b})
    new = {"a": identity(3), "b": b}
    assert settling.saw(new, 20.0) == Wait(20.0 + OTHERS_S)  # the other may follow
    both = {"a": identity(3), "b": identity(4)}
    assert settling.saw(both, 23.0) == Wait(24.0)  # it has: nothing more is to come
    assert settling.saw(new, 23.5) == Wait(23.5 + OTHERS_S)
    assert settling.saw(new, 23.5 + OTHERS_S) == Take()  # it did not, this time


def test_nothing_is_nothing() -> None:
    settling = Settling(SETTLED_S)
    assert settling.saw({}, 0.0) == Idle()
    assert settling.saw({"model": None}, 5.0) == Idle(("model",))


#: What happens at a tick of a tenth of a second: nothing, a write to one of two files, its removal, or somebody opens or closes it.
EVENTS = st.sampled_from(["", "", "write a", "write b", "remove a", "open", "close"])


@given(st.lists(EVENTS, min_size=1, max_size=80), st.integers(1, 9))
def test_whatever_is_written_when_it_is_never_taken_while_it_changes(events: list[str], every: int) -> None:
    """However often somebody looks: what is taken was there, whole, unchanged for a while at every look, and nobody had it open."""
    settling, is_open = Settling(SETTLED_S), False
    files: dict[str, FileIdentity | None] = {"a": identity(0), "b": identity(1000)}
    changed_at, number, taken = 0.0, 0, None
    for tick, event in enumerate([*events, "close", *[""] * 100]):
        now, verb, name = tick / 10, *event.partition(" ")[::2]
        if verb in ("write", "remove"):
            number += 1
            files[name] = identity(number + (1000 if name == "b" else 0)) if verb == "write" else None
            changed_at = now
        is_open = verb == "open" or (is_open and verb != "close")
        if tick % every:
            continue
        verdict = settling.saw(files, now)
        if isinstance(verdict, Take) and is_open:
            verdict = settling.is_written(now)
        if isinstance(verdict, Take):
            assert now - changed_at >= SETTLED_S - 0.001 and not is_open and None not in files.values()
            assert files != taken
            taken = dict(files)
            settling.taken(files)
    assert taken == files or None in files.values()  # and what is left to lie is taken


def test_what_is_done_to_a_file_shows_in_its_identity(tmp_path: Path) -> None:
    """Renamed into place, overwritten in place with the same size and time, made longer: each is another identity."""
    path = tmp_path / "m.pt"
    path.write_bytes(b"one")
    seen = [FileIdentity.of(path.stat())]
    (tmp_path / "new").write_bytes(b"two")
    (tmp_path / "new").rename(path)
    seen.append(FileIdentity.of(path.stat()))
    path.write_bytes(b"four")
    seen.append(FileIdentity.of(path.stat()))
    assert len(set(seen)) == 3
    before = path.stat()
    while FileIdentity.of(path.stat()).ctime_ns == before.st_ctime_ns:  # the tick of this file system
        path.write_bytes(b"five")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert FileIdentity.of(path.stat()) != seen[-1]


@pytest.mark.parametrize(("ctime_ns", "tick_s"), [(5_000_000_000, COARSE_TICK_S), (5_000_000_001, 0.0)])
def test_a_clock_of_whole_seconds_is_known_by_its_times(ctime_ns: int, tick_s: float) -> None:
    assert identity(1, ctime_ns=ctime_ns).tick_s == tick_s
