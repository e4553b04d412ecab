"""The priority of threads: what copies, hashes or loads shall not take the processor from requests, whoever's they are.

A thread of its own is needed for that: without privilege one cannot be made un-nice again.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress

#: What such a thread is niced to: of two busy threads on one core it gets about a tenth, so its work goes on under any load.
NICENESS = 10


def low_priority() -> None:
    """Nice the calling thread (Linux only), and with it every thread that it starts from now on.

    Threads that take part in its torch operations are among these (OpenMP makes a team for each thread that asks for one), so requests
    keep theirs.
    """
    if sys.platform == "linux":
        with suppress(OSError):  # a sandbox may forbid it; then the work is only less polite
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
