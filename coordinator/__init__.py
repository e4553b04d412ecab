"""genlock.coordinator: what the fleet agrees on, and how. Used by trainers, operators and workers."""

from .errors import *  # noqa: F403
