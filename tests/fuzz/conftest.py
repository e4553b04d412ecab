"""How much is tried: some hundred examples of each, new ones in every run; `pytest tests/fuzz --hypothesis-profile=long` for hours of it.

A failure prints a line `@reproduce_failure(…)`, which put above the test makes it try those bytes again. What was found stands in plain
tests with the very bytes, so that it is tried in every run.
"""

import pytest
from hypothesis import HealthCheck, settings

#: Examples of a test of a microsecond to a millisecond: all of this folder then takes half a minute on two cores.
USUAL, LONG = 150, 50_000

settings.register_profile("long", max_examples=LONG)


def pytest_configure(config: pytest.Config) -> None:
    """The profile `fuzz` that the tests of this folder are made from: the usual one writes to a folder, and judges how fast it goes."""
    is_long = config.getoption("--hypothesis-profile", None) == "long"
    settings.register_profile(
        "fuzz",
        max_examples=LONG if is_long else USUAL,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
