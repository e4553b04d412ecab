"""coordinator/drafts.py: what a trainer writes into, and what is left of it when the trainer is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from genlock.coordinator.drafts import LEFT_S, HostDrafts
from genlock.coordinator.remote import RemoteStore

DIE = """
import os, sys
from pathlib import Path
from genlock.coordinator.drafts import HostDrafts
draft = HostDrafts(Path(sys.argv[1])).new()
(draft / "weights").write_bytes(b"weights")
print(draft, flush=True)
os.kill(os.getpid(), 9)
"""


def test_what_a_killed_trainer_left_goes_a_day_later(tmp_path: Path) -> None:
    """Each trainer that was killed while it published to a bucket left 10 GB in the state folder, for ever: gc looks at the store alone."""
    ran = subprocess.run([sys.executable, "-c", DIE, str(tmp_path)], capture_output=True, text=True, timeout=60)
    left = Path(ran.stdout.strip())
    now = time.time()
    drafts = HostDrafts(tmp_path, now=lambda: now)
    drafts.new()
    assert (left / "weights").exists(), "somebody may look at it"
    now += LEFT_S + 60
    drafts.new()
    assert not left.exists()


def test_a_draft_that_a_live_trainer_holds_stays_however_old_it_is(tmp_path: Path) -> None:
    """Training for three days in the block of fleet.publishing(), and another trainer of the host published meanwhile."""
    now = time.time()
    ours, others = (HostDrafts(tmp_path, now=lambda: now) for _ in range(2))
    draft = ours.new()
    now += 3 * LEFT_S
    other = others.new()
    ours.new()
    assert draft.exists() and other.exists()
    ours.discard(draft)
    assert not draft.exists()
    ours.discard(draft)


def test_what_is_no_draft_is_left_alone(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    drafts = HostDrafts(tmp_path / "drafts", now=lambda: time.time() + 2 * LEFT_S)
    drafts.new()
    (tmp_path / "drafts" / "link").symlink_to(elsewhere)
    (tmp_path / "drafts" / "file").touch()
    drafts.new()
    assert elsewhere.exists() and len(list((tmp_path / "drafts").iterdir())) == 4


def test_the_drafts_of_an_object_store_are_tidied(tmp_path: Path) -> None:
    old = tmp_path / "drafts" / "old"
    old.mkdir(parents=True)
    os.utime(old, (1, 1))
    RemoteStore("memory://b/x", tmp_path).draft()
    assert not old.exists()
