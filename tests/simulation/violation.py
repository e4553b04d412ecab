"""What a simulation raises when a promise is broken."""


class Violation(Exception):
    """Which invariant, and what was found."""
