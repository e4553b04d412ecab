"""Files that training writes and knows nothing of genlock: noticed, waited for, published whole. `genlock watch`, and GENLOCK_CHECK_MTIME
in workers.

::

    pattern     which path is which artifact of which model                                                     pure
    settling    when what is there may be taken: unchanged, nobody writes, all files of the model              pure
    attempts    when a publish that failed is tried again, and what is said about it                           pure
    sources     what is there now: the files of patterns, or those that were named, with their identities
    writers     whether somebody has a file open for writing
    notice      who says that something may have changed: the kernel, or the clock
    memory      what this host knows of files it has read, so that a restart does not read them again
    offer       one publish: hashed, compared with what is active, copied, proposed
    watcher     the loop that runs them
"""

from .offer import Offered
from .pattern import Pattern, patterns_of
from .sources import Named, Patterned
from .watcher import Watcher

__all__ = ["Named", "Offered", "Pattern", "Patterned", "Watcher", "patterns_of"]
