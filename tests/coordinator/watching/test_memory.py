"""What this host knows of files that it has read."""

import os
from pathlib import Path

import pytest
from genlock.coordinator.watching.memory import LEFT_S, Known, Memory, Record
from genlock.coordinator.watching.settling import FileIdentity

IDENTITY = FileIdentity(1, 2, 3, 4, 5)
RECORD = Record({"model": Known("/m.pt", IDENTITY, "a" * 64)}, "v1")


def test_a_file_is_known_by_path_and_identity(tmp_path: Path) -> None:
    memory = Memory(tmp_path, "t")
    memory.write("m", RECORD)
    found = memory.read("m")
    assert found == RECORD and found.digest_of("model", Path("/m.pt"), IDENTITY) == "a" * 64
    assert found.digest_of("model", Path("/n.pt"), IDENTITY) is None
    assert found.digest_of("head", Path("/m.pt"), IDENTITY) is None
    for place in range(5):
        other = FileIdentity(*(value + (number == place) for number, value in enumerate(IDENTITY)))
        assert found.digest_of("model", Path("/m.pt"), other) is None
    assert [path.name for path in memory.folder.iterdir()] == ["m.json"]


@pytest.mark.parametrize("data", [b"", b"{", b'{"files":{"model":{"path":"/m.pt"}}}', b"[" * 5000, b"\xff", b'"text"'])
def test_what_makes_no_sense_is_nothing(data: bytes, tmp_path: Path) -> None:
    """A disk that was full, a power cut: the files are read again."""
    memory = Memory(tmp_path, "t")
    memory.write("m", RECORD)
    (memory.folder / "m.json").write_bytes(data)
    assert memory.read("m") == Record() == memory.read("never seen")


def test_where_nothing_can_be_written_nothing_is_remembered(tmp_path: Path) -> None:
    (tmp_path / "watched").touch()
    Memory(tmp_path, "t").write("m", RECORD)
    assert Memory(tmp_path, "t").read("m") == Record()


def test_a_path_that_is_not_utf_8_and_a_full_disk_leave_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(tmp_path, "t")
    memory.write("m", RECORD)
    memory.write("m", Record({"model": Known("/\udcff.pt", IDENTITY, "b" * 64)}))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    memory.write("m", Record(done="v2"))
    assert memory.read("m") == RECORD and [path.name for path in memory.folder.iterdir()] == ["m.json"]


def test_what_a_killed_process_has_left_is_not_left_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between writing and renaming, again and again: each time a file more, for ever."""
    memory = Memory(tmp_path, "t")
    with monkeypatch.context() as killed:
        for name in ("replace", "unlink"):
            killed.setattr(Path, name, lambda path, *_: None)
        for _ in range(3):
            memory.write("m", RECORD)
    assert memory.read("m") == Record()
    memory.write(".m", RECORD)
    [record, *left] = sorted(memory.folder.iterdir(), key=lambda path: path.suffix, reverse=True)
    assert record.name == ".m.json" and len(left) == 3, "somebody may be writing them just now"
    for path in (record, *left):
        os.utime(path, (path.stat().st_mtime - LEFT_S,) * 2)
    memory.write("m", RECORD)
    assert sorted(path.name for path in memory.folder.iterdir()) == [".m.json", "m.json"]


def test_two_processes_that_write_one_record_do_not_touch_each_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers begin to use one model, and both wrote one temporary file.

    A has written, B opens and empties, A renames: the record is empty. B has nothing to rename any more: its record is lost.
    """
    ours, theirs, seen = Memory(tmp_path, "t"), Memory(tmp_path, "t"), list[Record]()
    open_file, replace = os.open, Path.replace

    def renames(temp: Path, target: Path) -> Path:
        def opens(*arguments: int) -> int:
            monkeypatch.setattr(os, "open", open_file)
            descriptor = open_file(*arguments)
            replace(temp, target)
            seen.append(ours.read("m"))
            return descriptor

        monkeypatch.setattr(Path, "replace", replace)
        monkeypatch.setattr(os, "open", opens)
        theirs.write("m", Record(done="theirs"))
        return target

    monkeypatch.setattr(Path, "replace", renames)
    ours.write("m", RECORD)
    assert seen == [RECORD] and ours.read("m") == Record(done="theirs")
    assert [path.name for path in ours.folder.iterdir()] == ["m.json"]
