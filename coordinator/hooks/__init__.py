"""genlock.coordinator.hooks: one line for who trains.

`Publishing` is for loops written by hand; Lightning and Hugging Face have a callback each.

Nothing here imports a training library, nor torch: who uses a callback has imported its library already.
"""

from .callback import PublishCallback
from .publishing import Publishing
from .trainercallback import PublishTrainerCallback

__all__ = ["PublishCallback", "PublishTrainerCallback", "Publishing"]
