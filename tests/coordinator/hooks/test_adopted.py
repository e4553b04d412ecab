"""Callbacks that become their library's when they are made."""

import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from genlock.coordinator.hooks.adopted import Adopted


class Ours(Adopted):
    """A callback of two libraries that no machine has."""

    homes = ("adopted_test_one", "adopted_test_two")
    parent = "Callback"

    def __init__(self, value: int) -> None:
        self.value = value

    def on_save(self) -> str:
        return "ours"


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> list[type]:
    found = []
    for name in Ours.homes:
        module = ModuleType(name)
        module.Callback = type("Callback", (), {"on_save": lambda self: "theirs", "on_end": lambda self: "theirs"})
        monkeypatch.setitem(sys.modules, name, module)
        found.append(module.Callback)
    return found


def test_it_is_of_every_library_that_is_loaded(libraries: list[type], monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning is installed under two names, and each Trainer takes callbacks of its own only."""
    one, two = libraries
    both = Ours(1)
    assert isinstance(both, Ours) and isinstance(both, one) and isinstance(both, two)
    assert (both.on_save(), both.on_end()) == ("ours", "theirs")
    assert type(Ours(2)) is type(both)
    monkeypatch.delitem(sys.modules, "adopted_test_one")
    assert not isinstance(Ours(3), one)


@pytest.mark.usefixtures("libraries")
def test_another_process_can_have_it() -> None:
    """Lightning's ddp_spawn pickles callbacks; the class that was made has no name there."""
    again = pickle.loads(pickle.dumps(Ours(7)))
    assert (again.value, again.on_end()) == (7, "theirs")


def test_a_library_that_is_only_installed_is_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Somebody makes the callback in a file that is read before the one that imports Lightning."""
    (tmp_path / "adopted_test_two.py").write_text("class Callback:\n    def on_end(self):\n        return 'theirs'\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert Ours(1).on_end() == "theirs"
    sys.modules.pop("adopted_test_two")


def test_without_the_library_it_says_what_to_install() -> None:
    with pytest.raises(ImportError, match="Ours is a callback of adopted_test_one or adopted_test_two"):
        Ours(1)


def test_the_hooks_load_no_library() -> None:
    """A training job without Lightning must not pay for it, nor one without torch for torch."""
    heavy = ["torch", "lightning", "pytorch_lightning", "transformers", "numpy", "redis", "flask", "rich"]
    code = f"import sys, genlock.coordinator.hooks; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
