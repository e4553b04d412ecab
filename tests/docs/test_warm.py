"""The process that runs blocks: what ends badly in a program of its own ends badly here, and says where on the page."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from docs.pages import Block
from docs.warm import Ran, Warm, modules_of


@pytest.fixture(scope="module")
def warm() -> Iterator[Warm]:
    process = Warm({"PATH": os.environ["PATH"]}, always=())
    yield process
    process.end()


@pytest.fixture
def run(warm: Warm, tmp_path: Path) -> Callable[[str], Ran]:
    """run(code): as the block at line 7 of README.md."""
    return lambda code: warm.run(Block("README.md", 7, "python", code), tmp_path, {"A": "1"})


def test_a_block_is_a_program(run: Callable[[str], Ran], tmp_path: Path) -> None:
    """It is `__main__`, has nothing but its environment, and what it registers for the end is done after its threads have ended."""
    code = """
import atexit, os, threading, time
atexit.register(print, "at exit")
threading.Thread(target=lambda: (time.sleep(0.05), print("a thread"))).start()
print(__name__, dict(os.environ), os.getcwd())
"""
    ran = run(code)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out == f"__main__ {{'A': '1'}} {tmp_path}\na thread\nat exit\n"


def test_an_error_names_the_line_of_the_page(run: Callable[[str], Ran]) -> None:
    ran = run("def f():\n    raise ValueError('no')\nf()\n")
    assert ran.status == 1
    assert 'README.md", line 9, in <module>' in ran.err
    assert 'README.md", line 8, in f' in ran.err
    assert "warm.py" not in ran.err


def test_a_warning_of_the_block_is_an_error_and_one_of_others_is_not(run: Callable[[str], Ran]) -> None:
    """Whoever copies the block would see it."""
    assert run("import warnings\nwarnings.warn('old')\n").status == 1
    assert run("import warnings\nwarnings.warn_explicit('old', UserWarning, 'x.py', 1, module='x')\n").status == 0


@pytest.mark.parametrize(("given", "status", "said"), [("3", 3, ""), ("'why'", 1, "why\n"), ("", 0, "")])
def test_an_exit_status_is_told(run: Callable[[str], Ran], given: str, status: int, said: str) -> None:
    ran = run(f"import sys\nsys.exit({given})\n")
    assert (ran.status, ran.err) == (status, said)


def test_blocks_do_not_see_each_other(run: Callable[[str], Ran]) -> None:
    assert run("import os, sys\nos.environ['B'] = '2'\nx = sys.modules['left'] = sys\n").status == 0
    assert (
        run(
            "import os, sys\nassert 'B' not in os.environ and 'left' not in sys.modules and 'x' not in globals()\n"
        ).status
        == 0
    )


def test_what_takes_long_is_imported_before() -> None:
    code = "import torch.nn, os\nfrom a.b import c\nfrom genlock.worker import ModelCache\ndef f():\n    import later\n"
    assert modules_of(code) == [["torch.nn"], ["os"], ["a.b", "c"]]
