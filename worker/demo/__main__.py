"""`python -m genlock.worker.demo`: the demo without the command `genlock`."""

import sys

from .program import main

if __name__ == "__main__":
    sys.exit(main())
