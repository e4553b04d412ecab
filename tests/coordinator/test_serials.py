"""coordinator/serials.py: the highest serial never falls, whatever is written to Redis and however many processes write it down."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from genlock.coordinator import serials as room
from genlock.coordinator.errors import InvalidName, NotOrdered, SerialsUnreadable, SerialTooLow
from genlock.coordinator.hostlock import give_back, take
from genlock.coordinator.serials import MAX_SERIAL, Claim, Seen, Serials, advanced, judge
from hypothesis import given
from hypothesis import strategies as st

FLEET = "f" * 32
Use = Callable[[Serials], object]
V1, V2, V3 = "1" * 64, "2" * 64, "3" * 64


def lets_in(claim: Claim, seen: Seen, *, needs_order: bool = False) -> bool:
    try:
        judge("m", claim, seen, needs_order=needs_order)
    except (SerialTooLow, NotOrdered):
        return False
    return True


# --- what is let in ----------------------------------------------------------------------------------------------------


def test_numbers_order() -> None:
    seen = Seen(20, V2, V1)
    assert lets_in(Claim(21, V3), seen)
    assert lets_in(Claim(20, V2), seen), "a refresh, a restart, a heal"
    assert not lets_in(Claim(20, V3), seen), "another content under the same number"
    assert not lets_in(Claim(19, V2), seen)
    assert lets_in(Claim(1, V1), Seen()), "a host that has seen nothing believes a signature"


@pytest.mark.parametrize("needs_order", (False, True))
def test_a_rollback_goes_where_it_may(needs_order: bool) -> None:
    """By Redis's word; where operators have keys only to the version that the newest one's trainer signed as its way back."""
    seen = Seen(30, V3, V2)
    assert lets_in(Claim(20, V2, is_rollback=True), seen, needs_order=needs_order)
    assert lets_in(Claim(10, V1, is_rollback=True), seen, needs_order=needs_order) is not needs_order
    assert not lets_in(Claim(20, V2), seen, needs_order=needs_order), "what is no rollback is not one for its version"


def test_after_a_way_back_that_and_the_highest_are_let_in_and_nothing_between() -> None:
    seen = advanced(Claim(10, V1, is_rollback=True), Seen(30, V3, V1))
    assert seen == Seen(30, V3, V1, 10, V1)
    assert lets_in(Claim(10, V1), seen, needs_order=True) and lets_in(Claim(30, V3), seen)
    assert not lets_in(Claim(20, V2), seen) and not lets_in(Claim(10, V2), seen)
    assert advanced(Claim(31, V2, V1), seen) == Seen(31, V2, V1, left=(V1, V3)), "the next publish ends it"


def test_a_way_back_is_one_step(tmp_path: Path) -> None:
    """Version 1 stood in Redis as the active one while version 4 was signed: from there everybody could go back to it, past version 3."""
    serials = Serials(tmp_path, FLEET)
    for claim in (Claim(10, V1), Claim(20, V2, V1), Claim(30, V3, V2)):
        serials.became_active("m", claim, needs_order=True)
    assert serials.seen("m") == Seen(30, V3, V2, left=(V1, V2))
    four = "4" * 64
    for forged in (V1, V2):
        assert advanced(Claim(40, four, forged), serials.seen("m")).way_back == ""
    assert advanced(Claim(40, four, V3), serials.seen("m")).way_back == V3
    assert advanced(Claim(40, four, "5" * 64), serials.seen("m")).way_back == "5" * 64, "this host missed a publish"
    assert advanced(Claim(40, V3, V2), serials.seen("m")).way_back == V2, "the same content again"
    serials.became_active("m", Claim(20, V2, V1, is_rollback=True), needs_order=True)
    assert advanced(Claim(40, four, V2), serials.seen("m")).way_back == V2, "what was gone back to is active"


def test_what_is_remembered_has_an_end(tmp_path: Path) -> None:
    serials = Serials(tmp_path, FLEET)
    for number in range(1, room.MAX_LEFT + 10):
        serials.became_active("m", Claim(number, f"{number:064x}", f"{number - 1:064x}"), needs_order=True)
    assert len(serials.seen("m").left) == room.MAX_LEFT


def test_the_newest_content_stays_when_its_order_does_not_count_any_more() -> None:
    """An operator's key was replaced: what its order had led to was refused by every worker that was started again."""
    seen = Seen(30, V1)
    assert lets_in(Claim(10, V1, is_rollback=True), seen, needs_order=True)
    assert not lets_in(Claim(10, V2, is_rollback=True), seen, needs_order=True)


claims = st.builds(
    Claim, st.integers(0, 5), st.sampled_from((V1, V2, V3)), st.sampled_from(("", V1, V2)), st.booleans()
)


@given(st.lists(claims, max_size=12), st.booleans())
def test_the_highest_never_falls_and_what_is_active_stays_let_in(history: list[Claim], needs_order: bool) -> None:
    seen = Seen()
    for claim in history:
        if lets_in(claim, seen, needs_order=needs_order):
            after = advanced(claim, seen)
            assert after.serial >= seen.serial
            again = Claim(claim.serial, claim.version)
            assert lets_in(again, after, needs_order=needs_order), "a restart finds it as it was"
            seen = after


# --- on disk -----------------------------------------------------------------------------------------------------------


def test_it_is_there_for_the_next_process(tmp_path: Path) -> None:
    assert Serials(tmp_path, FLEET).seen("m") == Seen()
    assert not list(tmp_path.iterdir()), "to look makes nothing"
    Serials(tmp_path, FLEET).became_active("m", Claim(20, V2, V1), needs_order=True)
    assert Serials(tmp_path, FLEET).seen("m") == Seen(20, V2, V1)
    assert Serials(tmp_path, FLEET).seen("n") == Seen() == Serials(tmp_path, "e" * 32).seen("m")


def test_a_process_that_is_behind_writes_nothing(tmp_path: Path) -> None:
    """One worker heard generation 3 and wrote it down; another one comes to its own chore of generation 2 only now."""
    made = Serials(tmp_path, FLEET)
    made.became_active("m", Claim(30, V3, V2), needs_order=True)
    made.became_active("m", Claim(20, V2, V1), needs_order=True)
    made.became_active("m", Claim(10, V1, is_rollback=True), needs_order=True)
    assert made.seen("m") == Seen(30, V3, V2)


def test_it_is_flushed_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine stopped after the rename: an empty file, and every old manifest would have been let in."""
    events: list[str] = []
    flush, rename = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        events.append("flush")
        flush(descriptor)

    def renamed(path: Path, target: Path) -> Path:
        events.append("rename")
        return rename(path, target)

    Serials(tmp_path, FLEET).became_active("m", Claim(1, V1), needs_order=False)
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", renamed)
    Serials(tmp_path, FLEET).became_active("m", Claim(2, V2), needs_order=False)
    assert events == ["flush", "rename", "flush"]
    assert [path.name for path in (tmp_path / "serials" / FLEET / "models").iterdir()] == ["m.json"]


@pytest.mark.parametrize(
    "text", (b"", b"{", b"[]", b'{"serial": -1}', b'{"serial": "9"}', b"\xff", b'{"serial": 1e300}', b"x" * 9000)
)
def test_what_cannot_be_read_lets_nothing_in(tmp_path: Path, text: bytes) -> None:
    """Read as nothing it would be the way to bring any old manifest back."""
    path = tmp_path / "serials" / FLEET / "models/m.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(text)
    with pytest.raises(SerialsUnreadable, match=r"m\.json"):
        Serials(tmp_path, FLEET).seen("m")
    path.unlink()
    path.mkdir()
    with pytest.raises(SerialsUnreadable):
        Serials(tmp_path, FLEET).seen("m")


def test_no_name_leads_out_of_the_folder(tmp_path: Path) -> None:
    with pytest.raises(InvalidName):
        Serials(tmp_path, "../x")
    with pytest.raises(InvalidName):
        Serials(tmp_path, FLEET).seen("../../m")


def test_what_trainers_know_to_have_been_active_never_falls(tmp_path: Path) -> None:
    assert Serials(tmp_path, FLEET).highest_before("m") == 0
    for serial in (5, 9, 7):
        Serials(tmp_path, FLEET).was_active("m", serial)
    assert Serials(tmp_path, FLEET).highest_before("m") == 9
    assert Serials(tmp_path, FLEET).highest_before("n") == 0


# --- what a trainer signs next -----------------------------------------------------------------------------------------


def test_the_next_serial_is_above_all_that_are_known(tmp_path: Path) -> None:
    assert Serials(tmp_path, FLEET).next(above=0, now_us=1000) == 1001
    assert Serials(tmp_path, FLEET).next(above=0, now_us=900) == 1002, "the clock went back"
    assert Serials(tmp_path, FLEET).next(above=5000, now_us=900) == 5001, "another trainer's clock is ahead"
    assert Serials(tmp_path, FLEET).next(above=0, now_us=6000) == 6001
    with pytest.raises(SerialsUnreadable, match=r"above .*clock of this host right.*replace its key"):
        Serials(tmp_path, FLEET).next(above=MAX_SERIAL, now_us=0)
    assert Serials(tmp_path, FLEET).next(above=0, now_us=0) == 6002, "what was refused was not used"


def test_a_clock_that_was_far_ahead_once_is_said_with_what_to_remove(tmp_path: Path) -> None:
    Serials(tmp_path, FLEET).next(above=0, now_us=MAX_SERIAL - 1)
    with pytest.raises(SerialsUnreadable, match=r"used\.json: .*ahead when it was written: remove it"):
        Serials(tmp_path, FLEET).next(above=0, now_us=1000)


# --- what a host cannot do ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "use", "said"),
    [
        ("models/m.json", lambda one: one.seen("m"), r"seen last \(.*\)\. Mend it; to remove it is to trust"),
        ("before/m.json", lambda one: one.highest_before("m"), r"been active \(.*\)\. Mend it; .* the way back"),
        ("used.json", lambda one: one.next(above=0, now_us=1), r"signed last \(.*\)\. Remove it, if the clock"),
    ],
)
def test_each_file_has_a_remedy_of_its_own(tmp_path: Path, name: str, use: Use, said: str) -> None:
    """To remove used.json was said to let old manifests in: nothing is let in by it, and to mend it took somebody an evening."""
    path = tmp_path / "serials" / FLEET / name
    path.parent.mkdir(parents=True)
    for text in ("{", '{"serial": -1}'):
        path.write_text(text)
        with pytest.raises(SerialsUnreadable, match=said):
            use(Serials(tmp_path, FLEET))
    path.unlink()
    path.mkdir()
    with pytest.raises(SerialsUnreadable, match=said):
        use(Serials(tmp_path, FLEET))


WRITES: list[Use] = [
    lambda one: one.became_active("m", Claim(9, V1), needs_order=False),
    lambda one: one.was_active("m", 9),
    lambda one: one.next(above=0, now_us=1),
]


@pytest.mark.parametrize("use", WRITES)
@pytest.mark.parametrize(("number", "said"), [(28, "Free space there"), (13, "Let this user write there")])
def test_a_disk_that_takes_nothing_is_the_state_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: Use, number: int, said: str
) -> None:
    """A publish said "free space (`genlock gc`)", which looks at the store, and the state folder was full."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(SerialsUnreadable, match=f"{said}, or move .* GENLOCK_STATE_DIR") as caught:
        use(Serials(tmp_path, FLEET))
    assert "gc" not in str(caught.value)


@pytest.mark.parametrize("use", WRITES)
def test_a_process_that_is_stopped_with_the_lock_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: Use
) -> None:
    """Ctrl-Z in a trainer: every publish of the host waited, each in its publish lock, and every worker's loading thread."""
    monkeypatch.setattr(room, "MAX_WAIT_S", 0.05)
    one = Serials(tmp_path, FLEET)
    one.next(above=0, now_us=0)
    held = take([tmp_path / "serials" / FLEET / "lock"])
    assert held is not None
    with pytest.raises(SerialsUnreadable, match=r"lock: another process of this host has held it for 0\.05 s\. End it"):
        use(one)
    give_back(held)
    use(one)


FORK = f"""
import os, sys
from pathlib import Path
from genlock.coordinator import serials
read, write = os.pipe()
write_whole = serials.write_whole

def forking(*arguments, **more):
    if os.fork() == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    write_whole(*arguments, **more)

serials.write_whole = forking
made = serials.Serials(Path(sys.argv[1]), "{FLEET}")
print(made.next(above=0, now_us=0), made.next(above=0, now_us=0))
"""


def test_a_child_that_was_forked_meanwhile_does_not_keep_the_lock(tmp_path: Path) -> None:
    """A worker of a DataLoader, forked by another thread while a serial was written: no publish of this host until it ended."""
    ran = subprocess.run([sys.executable, "-c", FORK, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert ran.stdout == "1 2\n", ran.stderr


PROCESS = f"""
import sys
from pathlib import Path
from genlock.coordinator.serials import Claim, Serials
made = Serials(Path(sys.argv[1]), "{FLEET}")
first = int(sys.argv[2])
print(*(made.next(above=0, now_us=0) for _ in range(25)))
for serial in range(first, 201, 4):
    made.became_active("m", Claim(serial, f"{{serial:064x}}"), needs_order=False)
    assert made.seen("m").serial >= serial
"""


def test_processes_of_one_host_agree(tmp_path: Path) -> None:
    """Four at once: no serial is given twice, and the highest that any of them saw is what stays."""
    running = [
        subprocess.Popen([sys.executable, "-c", PROCESS, str(tmp_path), str(first)], stdout=subprocess.PIPE, text=True)
        for first in range(1, 5)
    ]
    given = [int(word) for process in running for word in process.communicate(timeout=60)[0].split()]
    assert [process.returncode for process in running] == [0, 0, 0, 0]
    assert sorted(given) == list(range(1, 101))
    path = tmp_path / "serials" / FLEET / "models/m.json"
    assert json.loads(path.read_text())["serial"] == 200
    assert len(path.read_bytes()) < room.MAX_FILE_BYTES
