"""Where the weights stand in what a training program has saved: one rule for who rehearses golden outputs and for who serves.

torch is imported by who has read such a file; nothing here is called before.
"""

from __future__ import annotations

from typing import Any

#: Keys under which training programs keep the weights beside their own state.
WRAPPERS = ("state_dict", "model_state_dict")


def weights_in(found: Any) -> dict[str, Any]:
    """The dict in which the tensors stand: this one, or the only one below a key of WRAPPERS if no tensor stands beside it.

    Raises ValueError: there is none, or nobody could say which.
    """
    from torch import Tensor

    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__}, not a dict of tensors")
    if not any(isinstance(value, Tensor) for value in found.values()):
        inner = [found[key] for key in WRAPPERS if isinstance(found.get(key), dict)]
        if len(inner) > 1:
            raise ValueError(
                f"it has a dict under each of {' and '.join(WRAPPERS)}: save the one that is to be served alone"
            )
        if not inner or not any(isinstance(value, Tensor) for value in inner[0].values()):
            keys = ", ".join(map(repr, list(found)[:5]))
            raise ValueError(f"it holds a dict without tensors (keys: {keys or 'none'}): save model.state_dict()")
        found = inner[0]
    state: dict[str, Any] = found  # the object itself: torch keeps the versions of its layers in an attribute of it
    return state
