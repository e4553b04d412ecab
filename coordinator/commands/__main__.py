"""`python -m genlock.coordinator.commands`: the command line without its script."""

import sys

from .program import main

if __name__ == "__main__":
    sys.exit(main())
