"""Every fenced block of every page: run, typed, or read by who has to read it. There is no way to leave one out."""

from __future__ import annotations

import ast
import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from genlock.coordinator.commands import main
from genlock.coordinator.errors import GenlockError
from genlock.coordinator.notation import token
from genlock.coordinator.server import EmbeddedServer
from genlock.coordinator.settings import Settings

from docs.console import lines_of, lines_of_example
from docs.pages import ROOT, Block, blocks, page_names, text_of
from docs.programs import check
from docs.shelf import Shelf, can_run
from docs.warm import Warm

PAGES = page_names()
#: What stands above a text block that is what the block before it prints; `…` in it stands for anything.
PRINTS = "It prints:"


# --- those that are read ---------------------------------------------------------------------------------------------


def _json(block: Block, folder: Path) -> None:
    json.loads(block.text)


def _yaml(block: Block, folder: Path) -> None:
    assert list(yaml.safe_load_all(block.text)) != [None]


def _toml(block: Block, folder: Path) -> None:
    tomllib.loads(block.text)


def _ini(block: Block, folder: Path) -> None:
    configparser.RawConfigParser(strict=False, allow_no_value=False).read_string(block.text)


def _env(block: Block, folder: Path) -> None:
    """Variables, as compose and systemd read them; those of genlock have values that it takes."""
    pairs = dict(line.split("=", 1) for line in block.text.splitlines() if line.strip() and not line.startswith("#"))
    assert all(re.fullmatch(r"[A-Z][A-Z0-9_]*", name) for name in pairs)
    Settings.from_env(pairs)


def _tokens(block: Block, folder: Path) -> None:
    for line in block.text.splitlines():
        token(line)


def _acl(block: Block, folder: Path) -> None:
    """A server reads one user in each line of its ACL file, and refuses the file otherwise."""
    for line in block.text.splitlines():
        assert re.fullmatch(r"user \S+ on( [>~&+%#@-]\S+)+", line), line


def _nginx(block: Block, folder: Path) -> None:
    """What stands on its own in a configuration, or belongs into a server."""
    text = f"server {{ listen 8080; {block.text} }}" if block.text.startswith("location") else block.text
    logs = f"error_log {folder}/error.log; pid {folder}/pid;"
    (folder / "nginx.conf").write_text(f"{logs} events {{}}\nhttp {{ access_log off;\n{text}\n}}")
    _quiet(["nginx", "-t", "-q", "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")])


def _promql(block: Block, folder: Path) -> None:
    """Expressions with an empty line between them."""
    expressions = [{"record": "x:x", "expr": expr} for expr in block.text.strip().split("\n\n")]
    (folder / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "x", "rules": expressions}]}))
    _quiet(["promtool", "check", "rules", "--lint=none", str(folder / "rules.yml")])


def _dockerfile(block: Block, folder: Path) -> None:
    for line in re.sub(r"\\\n", " ", block.text).splitlines():
        assert not line.strip() or re.match(
            r"(#|FROM|RUN|COPY|ENV|ARG|USER|WORKDIR|CMD|ENTRYPOINT|EXPOSE|VOLUME) ?", line
        )


def _text(block: Block, folder: Path) -> None:
    """A drawing, or what something prints: for people."""


def _quiet(words: list[str]) -> None:
    found = shutil.which(words[0], path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert found, f"no {words[0]} on the PATH: install it (.ci/run names the package)"
    done = subprocess.run([found, *words[1:]], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


#: Language → who reads a block in it. A page that needs another one needs a reader here.
READERS: dict[str, Callable[[Block, Path], None]] = {
    "acl": _acl,
    "dockerfile": _dockerfile,
    "env": _env,
    "ini": _ini,
    "json": _json,
    "nginx": _nginx,
    "promql": _promql,
    "text": _text,
    "toml": _toml,
    "tokens": _tokens,
    "yaml": _yaml,
}
#: What they raise.
UNREADABLE = (AssertionError, ValueError, yaml.YAMLError, configparser.Error, GenlockError)
#: Those that somebody types, and those that run.
TYPED, RUN = ("console", "sh"), ("python",)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_has_a_language_and_can_be_read(page: str, tmp_path: Path) -> None:
    for block in blocks(page):
        known = [*READERS, *TYPED, *RUN]
        assert block.language in known, f"{block.where}: the language {block.language!r}: say one of {', '.join(known)}"
        if block.language in READERS:
            try:
                READERS[block.language](block, tmp_path)
            except UNREADABLE as error:
                raise AssertionError(f"{block.where}: this is no {block.language}: {error}") from error


#: Language → what is none of it.
BROKEN = {
    "acl": "user a on\n +get",
    "dockerfile": "FORM python",
    "env": "GENLOCK_LEASE=3 hours",
    "ini": "[Service\na=1",
    "json": "{'a': 1}",
    "nginx": "upstream a { sever b; }",
    "promql": "sum(rate(x[1m])",
    "toml": "a = ",
    "tokens": "operator:short",
    "yaml": "a: [1",
}


def test_what_is_broken_is_found(tmp_path: Path) -> None:
    """A reader that takes anything is no test of a block."""
    assert BROKEN.keys() == READERS.keys() - {"text"}
    for language, text in BROKEN.items():
        with pytest.raises(UNREADABLE):
            READERS[language](Block("p.md", 1, language, text), tmp_path)


# --- those that somebody types ---------------------------------------------------------------------------------------


def _with_blocks(*languages: str) -> list[str]:
    """Pages that seem to have such blocks; what is wrong with one of them is for its test to say."""
    fence = re.compile(rf"^ *[`~]{{3,}} *({'|'.join(languages)})\b", re.M)
    return [page for page in PAGES if fence.search(text_of(page))]


@pytest.mark.parametrize("page", _with_blocks(*TYPED))
def test_every_typed_line_can_be_typed(page: str) -> None:
    """A shell reads each line; each program is known, and takes the options, routes, services, extras and files that it is given."""
    lines = [line for block in blocks(page, *TYPED) for line in lines_of(block)]
    done = subprocess.run(
        ["bash", "-n"],
        input="\n".join(line.text for line in lines),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), page
    for line in lines:
        check(line, page)


EXAMPLES = sorted(path for path in (ROOT / "examples").rglob("*.py") if "__pycache__" not in path.parts)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_what_an_example_says_can_be_typed(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    for line in lines_of_example(name, ast.get_docstring(ast.parse(path.read_text())) or ""):
        check(line, name)


@pytest.fixture
def shelf(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    for name in [name for name in os.environ if name.startswith(("GENLOCK_", "M10D_"))]:
        monkeypatch.delenv(name)
    made = Shelf(tmp_path, redis_url)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    yield made
    made.end()


@pytest.mark.parametrize("page", [page for page in _with_blocks(*TYPED) if "$ genlock " in text_of(page)])
def test_the_lines_of_genlock_run(page: str, shelf: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    """From top to bottom, a block at a time, before a fleet with a worker: each ends well, but where the page shows an error below it.

    Those that do not end by themselves, or that speak of another place (shelf.can_run), are parsed by the test above.
    """
    each = [[line for line in lines_of(block) if can_run(line)] for block in blocks(page, *TYPED)]
    shelf.stock(line for lines in each for line in lines)
    for lines in each:
        shelf.settle()
        for line in lines:
            status = main(shelf.arguments_of(line))
            out, err = capsys.readouterr()
            fails = bool(line.output) and line.output[0].startswith("genlock: ")
            doctor = line.text.startswith("genlock doctor")  # it may find what it finds
            assert (status != 0) == fails or doctor, f"{line.where}: `{line.text}` ended with {status}\n{out}{err}"


# --- those that run --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """The process that has imported what takes long."""
    home = tmp_path_factory.mktemp("home")
    process = Warm({"PATH": os.environ["PATH"], "HOME": str(home), "OMP_NUM_THREADS": "1"})
    yield process
    process.end()


#: How pytest runs a block that is saved as tests.
QUIETLY = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly"]


@pytest.fixture
def program(tmp_path: Path, redis_url: str, warm: Warm) -> Iterator[Callable[[Block], str]]:
    """program(block): what it prints, as a program of its own in the folder of the test; under pytest where the page saves it as tests."""
    environment = {
        "GENLOCK_REDIS_URL": redis_url,
        "GENLOCK_STATE_DIR": str(tmp_path / "state"),
        "GENLOCK_LEASE": "1",
        "HOME": str(tmp_path),
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }

    def run(block: Block) -> str:
        name = block.saved_as
        if name:
            (tmp_path / name).write_text(block.text)
        if name and name.startswith("test_"):
            block = replace(block, text=f"import pytest, sys\nsys.exit(pytest.main({[*QUIETLY, name]}))\n")
        ran = warm.run(block, tmp_path, environment)
        assert ran.status == 0, f"{block.where}: this block ends with {ran.status}\n{ran.out}{ran.err}"
        return ran.out

    yield run
    EmbeddedServer(tmp_path / "state").stop()  # a block may have started one


#: Page → what somebody sends to the apps that it makes.
SENT = {"README.md": [[0.0] * 64], "docs/quickstart.md": [[1, 2, 3, 4]]}
#: What the block of an app has in it → somebody who asks that app: status, and the header that is promised.
CLIENTS = {
    "Flask(": """
done = app.test_client().post("/predict", json=SENT)
print(done.status_code, done.headers["X-Genlock-Generation"])
""",
    "FastAPI(": """
from fastapi.testclient import TestClient
with TestClient(app) as client:
    done = client.post("/predict", json=SENT)
    print(done.status_code, done.headers["X-Genlock-Generation"])
""",
}


@pytest.mark.parametrize("page", _with_blocks(*RUN))
def test_every_python_block_runs(page: str, program: Callable[[Block], str]) -> None:
    """A newcomer saves each block as a program, and starts one after the other in one folder: each ends well, without a warning of
    genlock, and prints what the page says; apps answer from what the page published."""
    printed = ""
    for block in blocks(page):
        client = next((client for made, client in CLIENTS.items() if made in block.text), "") if page in SENT else ""
        if block.language in RUN:
            printed = program(replace(block, text=block.text + client.replace("SENT", str(SENT.get(page)))))
            assert not client or printed == "200 1\n", f"{block.where}: this app answers {printed}"
        elif block.language == "text" and block.before.endswith(PRINTS):
            wanted = ".*?".join(map(re.escape, block.text.split("…")))
            assert re.fullmatch(wanted, printed, re.S), f"{block.where}: the block above prints\n{printed}"
