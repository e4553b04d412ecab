"""The coordinator's HTTP: `genlock admin`, or `gunicorn genlock.coordinator.admin:app` with GENLOCK_ADMIN_TOKENS set.

    from genlock.coordinator.admin import create_app

Importing this loads no web framework, and reads no environment: both happen when `app` or `create_app` is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .application import create_app

__all__ = ["create_app"]


def __getattr__(name: str) -> Any:
    if name == "create_app":
        from .application import create_app

        return create_app
    if name == "app":
        from .serving import make_app

        app = globals()["app"] = make_app()
        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
