"""A process that has imported torch, and runs each Python block in a child of its own.

An import of torch costs a second, that of a training library three; a child that is forked after it has them for nothing. Only imports
happen before the fork: after an operation of torch the first parallel one of a child would hang (R12). Traceback and warnings of a block
name its page and the page's line.

Started as a program it reads one JSON object a line, `{"code", "file", "folder", "environment", "modules"}`, and answers with the exit
status of each; what a block prints goes into the files `stdout` and `stderr` of its folder.
"""

from __future__ import annotations

import ast
import atexit
import faulthandler
import gc
import importlib
import json
import os
import subprocess
import sys
import threading
import traceback
import types
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .pages import ROOT, Block

#: Seconds that a block may take; then it ends with the traceback of each of its threads.
BLOCK_S = 60
#: What is imported before anybody asks: what most pages need.
ALWAYS = ("torch", "numpy", "safetensors.torch", "genlock.coordinator.fleet", "genlock.worker.cache")


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str


class Warm:
    """The process, as who asks it sees it."""

    def __init__(self, environment: Mapping[str, str], always: Iterable[str] = ALWAYS) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "docs.warm", *always],
            cwd="/",
            env={**environment, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), *sys.path])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, block: Block, folder: Path, environment: Mapping[str, str]) -> Ran:
        """The block as a program of its own, in that folder and with nothing but that environment."""
        assert self._process.stdin and self._process.stdout
        asked = {
            "code": "\n" * (block.line - 1) + block.text,
            "file": str(ROOT / block.page),
            "folder": str(folder),
            "environment": dict(environment),
            "modules": modules_of(block.text),
        }
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the process that runs the blocks has ended"
        out, err = ((folder / name).read_text() for name in ("stdout", "stderr"))
        return Ran(json.loads(answer), out, err)

    def end(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


def modules_of(code: str) -> list[list[str]]:
    """What the code imports at its top, as module and names, as far as it is not genlock's own: that is what takes long."""
    found = []
    for node in ast.parse(code).body:
        if isinstance(node, ast.Import):
            found += [[alias.name] for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.append([node.module, *(alias.name for alias in node.names)])
    return [names for names in found if names[0].partition(".")[0] not in ("genlock", "__future__")]


def main() -> None:
    """Imports and forks, until nobody asks any more."""
    _import([module] for module in sys.argv[1:])
    for line in sys.stdin:
        asked = json.loads(line)
        _import(asked["modules"])
        gc.freeze()  # what the child does not touch it does not copy
        child = os.fork()
        if not child:
            _end(_run(asked))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _import(modules: Iterable[Sequence[str]]) -> None:
    """Names too: some libraries import what is behind a name when it is asked for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module, *names in modules:
            try:
                found = importlib.import_module(module)
            except ImportError:  # of the block's own folder, or it is the block's to complain
                continue
            for name in names:
                getattr(found, name, None)


def _run(asked: dict[str, Any]) -> int:
    """In the child, where the block is the program; its exit status."""
    os.chdir(asked["folder"])
    for number, name, flags in ((0, os.devnull, os.O_RDONLY), (1, "stdout", os.O_WRONLY), (2, "stderr", os.O_WRONLY)):
        where = os.open(name, flags | (os.O_CREAT | os.O_TRUNC if number else 0), 0o600)
        os.dup2(where, number)
        os.close(where)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  # what the parent has read ahead is not the child's
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.path.insert(0, asked["folder"])
    faulthandler.dump_traceback_later(BLOCK_S, exit=True, file=sys.stderr)
    warnings.resetwarnings()
    warnings.simplefilter("default")
    for ours in ("__main__$", r"genlock\."):
        warnings.filterwarnings("error", module=ours)
    program = sys.modules["__main__"] = types.ModuleType("__main__")
    program.__file__ = asked["file"]
    try:
        exec(compile(asked["code"], asked["file"], "exec"), program.__dict__)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException as error:
        _complain(error, asked["file"])
        return 1
    return 0


def _complain(error: BaseException, file: str) -> None:
    """The traceback begins in the block."""
    trace = error.__traceback__
    while trace and trace.tb_next and trace.tb_frame.f_code.co_filename != file:
        trace = trace.tb_next
    traceback.print_exception(type(error), error, trace)


def _end(status: int) -> None:
    """As a program ends: threads, then what was registered for the end; but not object by object, which takes half a second for torch."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
