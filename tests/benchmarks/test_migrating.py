"""What decides that requests look at no file."""

import os
import threading
from pathlib import Path

from benchmarks.migrating import FileLooks


def test_a_look_of_this_thread_counts_and_no_other(tmp_path: Path) -> None:
    """The figure is zero by design; an instrument that could not count would be zero too."""
    looks = FileLooks()
    for event in (*looks.EVENTS, "import", "socket.connect"):
        looks.heard(event)
    assert looks.count == 3
    stat = looks.counting(os.stat)
    assert stat(tmp_path, follow_symlinks=True) == tmp_path.stat()
    assert looks.count == 4
    other = threading.Thread(target=lambda: (stat(tmp_path), looks.heard("open")))
    other.start()
    other.join()
    assert looks.count == 4
