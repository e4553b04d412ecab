"""GenlockError: what every error of genlock is."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, ClassVar


class GenlockError(Exception):
    """The base of all errors that genlock raises on purpose."""

    status: ClassVar[int] = 500
    exit_status: ClassVar[int] = 1
    #: The word for JSON and for the problem type of an HTTP answer.
    outcome: ClassVar[str] = "failed"

    @property
    def facts(self) -> dict[str, Any]:
        """The fields of the error, as they go into JSON."""
        if not hasattr(self, "__dataclass_fields__"):
            return {}
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
