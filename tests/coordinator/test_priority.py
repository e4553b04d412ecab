"""coordinator/priority.py: a thread makes way, and only that thread."""

import os
import sys
import threading

import pytest
from genlock.coordinator.priority import NICENESS, low_priority


def test_only_the_calling_thread_becomes_nice() -> None:
    """os.nice() would make the requests nice too."""
    found: list[int] = []

    def work() -> None:
        low_priority()
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert found == [NICENESS]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


@pytest.mark.parametrize("platform", ["darwin", "linux"])
def test_where_nobody_may_be_nice_the_work_goes_on(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(which: int, who: int, priority: int) -> None:
        asked.append(priority)
        raise PermissionError

    asked: list[int] = []
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(os, "setpriority", forbidden)
    low_priority()
    assert asked == ([NICENESS] if platform == "linux" else [])
