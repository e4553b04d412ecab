"""Folders and machine, judged."""

import errno
import os
from dataclasses import replace
from typing import Any

import pytest
from genlock.coordinator.doctor.facts import FolderFacts, HostFacts
from genlock.coordinator.doctor.finding import Finding, worst_of
from genlock.coordinator.doctor.host_verdicts import judge_host, judge_state, judge_store

FOLDER = FolderFacts(
    path="/mnt/models",
    exists=True,
    filesystem="ext4",
    mounted_at="/mnt",
    free_bytes=10 * 2**30,
    total_bytes=100 * 2**30,
    free_files=1000,
    mode=0o755,
    owner=7,
    sync_s=(0.002,) * 5,
)
HOST = HostFacts(python=(3, 11, 7), torch="2.10.0", open_files=4096, user=7)


def store(largest: tuple[str, int] | None = None, **facts: Any) -> dict[str, Finding]:
    found = judge_store(replace(FOLDER, **facts), HOST, largest)
    assert len({one.check for one in found}) == len(found)
    return {finding.check: finding for finding in found}


def host(**facts: Any) -> dict[str, Finding]:
    return {finding.check: finding for finding in judge_host(replace(HOST, **facts))}


def test_a_good_store_and_host_have_nothing_to_be_done() -> None:
    found = [*store(("m", 2**30)).values(), *host().values(), *judge_state(FOLDER, HOST)]
    assert worst_of(found) == "ok" and not any(one.advice for one in found)


def test_from_where_workers_map_is_said() -> None:
    assert "where they are" in store()["workers"].found
    found = store(filesystem="nfs4", is_local=False)["workers"]
    assert found.level == "ok" and "GENLOCK_HOST_CACHE" in found.found


def test_a_folder_that_is_not_there_yet_is_no_fault_and_one_that_cannot_be_is() -> None:
    missing = FolderFacts(path="/mnt/models")
    assert [one.level for one in judge_store(missing, HOST, None)] == ["ok"]
    (found,) = judge_state(replace(missing, error="it is not a folder"), HOST)
    assert found.level == "wrong" and "GENLOCK_STATE_DIR" in found.advice


@pytest.mark.parametrize(
    ("filesystem", "level", "words"),
    [
        ("nfs4", "ok", "seen by another some seconds later"),
        ("cifs", "ok", "network file system"),
        ("fuse.s3fs", "wrong", "no hard links"),
        ("overlay", "warning", "goes with the container"),
        ("tmpfs", "warning", "when this machine restarts"),
        ("virtiofs", "warning", "virtual machine"),
        ("xfs", "ok", "all of them have to share it"),
        ("", "ok", "not known"),
    ],
)
def test_each_file_system_with_what_follows_from_it(filesystem: str, level: str, words: str) -> None:
    found = store(filesystem=filesystem)["filesystem"]
    assert (found.level, words in found.found) == (level, True)


def test_locks_do_not_belong_on_a_network() -> None:
    found = judge_state(replace(FOLDER, filesystem="nfs4"), HOST)[-1]
    assert (found.check, found.level) == ("filesystem", "warning")


@pytest.mark.parametrize("filesystem", ["beegfs", "fuse.juicefs", "unheard-of"])
def test_a_file_system_that_nobody_knows_is_not_said_to_be_of_this_host(filesystem: str) -> None:
    """Two tables contradicted each other: "it is a file system of this host", and then that workers do not map its files."""
    facts = replace(FOLDER, filesystem=filesystem, is_local=False)
    said = {finding.check: finding.found for finding in judge_store(facts, HOST, None)}
    assert "or one that is not known here" in said["filesystem"] and "fetched once" in said["workers"]
    assert judge_state(facts, HOST)[-1].level == "warning"


@pytest.mark.parametrize(("size", "level"), [(4 * 2**30, "ok"), (6 * 2**30, "warning"), (11 * 2**30, "wrong")])
def test_the_largest_model_has_to_fit_once_more(size: int, level: str) -> None:
    """The publish at night failed for want of room, and the old model stayed active for a week."""
    found = store(("fusion", size))["space"]
    assert (found.level, "fusion" in found.found) == (level, True)


def test_a_full_disk_is_full_also_for_a_fleet_without_models() -> None:
    found = store(free_bytes=4096, failed={"write": os.strerror(errno.ENOSPC)}, sync_s=())
    assert (found["space"].level, found["folder"].level) == ("wrong", "wrong")
    assert "genlock gc" in found["folder"].advice


def test_a_store_that_is_mounted_read_only_is_enough_for_workers() -> None:
    found = store(failed={"write": os.strerror(errno.EROFS)}, sync_s=())["folder"]
    assert found.level == "warning" and "workers only read" in found.advice


def test_a_file_system_without_inodes_is_full() -> None:
    assert store(free_files=0)["space"].level == "wrong"
    assert store(free_files=None)["space"].level == "ok"


@pytest.mark.parametrize(
    ("check", "level", "facts"),
    [
        ("folder", "wrong", {"failed": {"write": "Permission denied"}, "sync_s": ()}),
        ("folder", "warning", {"mode": 0o777}),
        ("folder", "ok", {"mode": 0o1777}),
        ("files", "wrong", {"failed": {"hard link": "Operation not permitted"}}),
        ("flush", "warning", {"sync_s": (0.4,) * 5}),
    ],
)
def test_what_was_tried_in_it_is_judged(check: str, level: str, facts: dict[str, Any]) -> None:
    assert store(**facts)[check].level == level


@pytest.mark.parametrize(
    ("check", "level", "facts", "words"),
    [
        ("python", "wrong", {"python": (3, 10, 1)}, "3.10.1"),
        ("torch", "ok", {"torch": None}, "only workers need it"),
        ("torch", "wrong", {"torch": "2.6.0+cpu"}, "execute code"),
        ("torch", "ok", {"torch": "3.0"}, "3.0"),
        ("open files", "warning", {"open_files": 256}, "256"),
        ("open files", "ok", {"open_files": None}, "without end"),
        ("tokens", "ok", {"roles": ("operator", "viewer")}, "operator, viewer"),
        ("tokens", "ok", {}, "no admin tokens"),
        ("tokens", "wrong", {"tokens_error": "others may read it"}, "others may read it"),
        ("signing", "ok", {}, "no keys are set"),
    ],
)
def test_this_host(check: str, level: str, facts: dict[str, Any], words: str) -> None:
    found = host(**facts)[check]
    assert (found.level, words in found.found) == (level, True)
