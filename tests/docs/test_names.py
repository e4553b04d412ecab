"""No page and no docstring names a setting, a command, an option, a route or a metric that is not there; what has to be told is told."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from genlock.coordinator.admin.figures import METRICS
from genlock.coordinator.admin.route import ROUTES
from genlock.coordinator.settings import TABLE
from genlock.worker.exposition import FAMILIES, PREFIX
from genlock.worker.wire import KINDS
from msgspec.structs import fields

from docs.pages import ROOT, blocks_of, page_names, text_of
from docs.programs import Wrong, parsed
from docs.reference import commands, errors_of_users, worker_routes

PAGES = [page for page in page_names() if page != "CHANGELOG.md"]
#: Variables of compose and of examples, not of genlock.
NOT_OURS = {"GENLOCK_CODE", "GENLOCK_CHECKPOINTS", "GENLOCK_TAG"}
#: The words of the protocol, each of which the glossary explains.
# fmt: off
WORDS = {
    "fleet", "model", "artifact", "version", "generation", "manifest", "active", "candidate", "next", "member", "holder", "beat", "lease",
    "fence", "epoch", "revision", "hint", "flip", "pin", "poisoned", "unproven", "canary", "promote", "policy", "stale",
}
# fmt: on


def docstrings() -> Iterator[tuple[str, str]]:
    """(file, docstring) of both parts."""
    for folder in ("coordinator", "worker"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                    yield str(path.relative_to(ROOT)), text


@cache
def told() -> tuple[tuple[str, str], ...]:
    """(where, text) of all that people read."""
    return (*((page, text_of(page)) for page in PAGES), *docstrings())


def inline(text: str) -> list[str]:
    """What stands between backticks outside of blocks."""
    for block in blocks_of("", text):
        text = text.replace(block.text, "")
    return [found.strip() for found in re.findall(r"`([^`\n]+)`", text)]


# --- nothing is made up ------------------------------------------------------------------------------------------------


def test_every_variable_is_a_setting() -> None:
    """Somebody sets what a page names, and nothing happens: the name was an older one, or never there."""
    known = {name for row in TABLE for name in (row.variable, *row.older)} | NOT_OURS
    made_up = {
        (where, name)
        for where, text in told()
        for name in re.findall(r"\b(?:GENLOCK|M10D)_[A-Z_]*[A-Z]\b(?!…|\*)", text)
        if name not in known
    }
    assert made_up == set()


@pytest.mark.parametrize("page", PAGES)
def test_every_command_in_a_sentence_is_one(page: str) -> None:
    """`genlock publish MODEL PATH --force` in a sentence: the command is there, and has these options; a whole one can be typed."""
    there = {
        " ".join(names): {word for one in command.params for word in (*one.opts, *one.secondary_opts)}
        for names, command in commands()
    }
    for said in inline(text_of(page)):
        if not re.match(r"genlock [a-z]", said):
            continue
        words = shlex.split(said.replace("…", " ").replace("[", " ").replace("]", " "))[1:]
        name = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in there), None)
        groups = {one.partition(" ")[0] for one in there if " " in one}
        assert name or words[0] in groups, f"{page}: `{said}`: there is no such command"
        options = {word.partition("=")[0] for word in words if word.startswith("-")} - {"--help", "--json", "--version"}
        wrong = options - there.get(name or "", options)
        assert not wrong, f"{page}: `{said}`: genlock {name} has no {sorted(wrong)}"


def test_every_command_that_the_code_speaks_of_is_one() -> None:
    """An error tells somebody to run a command: it is there."""
    there = {names[0] for names, _ in commands()}
    made_up = {
        (str(path.relative_to(ROOT)), name)
        for folder in ("coordinator", "worker", "deploy")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".js", ".html", ".sh", ".yml", ".lua")
        for name in re.findall(r"`genlock ([a-z]+)", path.read_text())
        if name not in there
    }
    assert made_up == set()


def test_every_command_of_the_operators_page_can_be_typed() -> None:
    """Somebody copies a line at three in the morning: command, arguments and options are those of the program."""
    lines = [said for said in inline(text_of("docs/operating.md")) if re.match(r"genlock [a-z]", said)]
    assert len(lines) > 20
    for line in lines:
        words = shlex.split(line.replace("MODEL", "digits"))[1:]
        try:
            parsed(tuple(words))
        except Wrong:
            assert words in (["rollback"], ["history"], ["refresh"]), line


def test_every_metric_is_one() -> None:
    """An alert on a metric that is not there never fires."""
    known = {PREFIX + family.name for family in FAMILIES} | set(METRICS)
    known |= {name + ending for name in known for ending in ("_bucket", "_sum", "_count")}
    made_up = {
        (where, name)
        for where, text in told()
        for name in re.findall(r"\bgenlock_(?:worker|fleet|model)_[a-z_]*[a-z]\b(?!_?…|\*)", text)
        if name not in known
    }
    assert made_up == set()


def test_every_route_is_one() -> None:
    """`POST /cache/clear` in a sentence: of a worker, of the admin, or of an app that the page itself makes."""
    known = [(one.method, one.path) for one in (*ROUTES, *worker_routes())]
    made_up = {
        (where, said)
        for where, text in told()
        for said in inline(text)
        if (found := re.fullmatch(r"(GET|POST|PUT|DELETE) (/[^?\s]*)(\?.*)?", said))
        and not _is_route(found[1], found[2], known + [(one.upper(), path) for one, path in _OWN.findall(text)])
    }
    assert made_up == set()


_OWN = re.compile(r"@\w+\.(get|post|put|delete)\(\s*\"([^\"]+)\"")


def _is_route(method: str, path: str, known: list[tuple[str, str]]) -> bool:
    """A path that ends in `…` stands for several."""
    if path.endswith("…"):
        return any(method == one and there.startswith(path[:-1]) for one, there in known)
    return any(
        method == one and re.fullmatch(re.sub(r"<[^>]+>|\{[^}]+\}", "[^/]+", there), path) for one, there in known
    )


@pytest.mark.parametrize("page", page_names())
def test_links_lead_somewhere(page: str) -> None:
    """To a file of the checkout, and in it to a heading."""
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", text_of(page)):
        if "://" in target:
            continue
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), f"{page}: {target}"
        assert not anchor or anchor in anchors(path), f"{page}: {target}#{anchor}"


def anchors(path: Path) -> set[str]:
    """Of the headings of a page, as code hosts make them: lower case, spaces as hyphens, no punctuation."""
    headings = re.findall(r"^#+ +(.*)", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# --- nothing is left out -----------------------------------------------------------------------------------------------


def test_every_page_is_in_the_list_of_pages() -> None:
    """A page that nobody finds is not there."""
    listed = {target.partition("#")[0] for target in re.findall(r"\]\(([^)]+)\)", text_of("docs/README.md"))}
    there = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")} - {"README.md"}
    assert there - listed == set()


def test_every_error_is_in_the_page_about_trouble() -> None:
    """Somebody searches for the name that a log shows, or the `type` that an answer has."""
    page = text_of("docs/troubleshooting.md")
    assert [kind.__name__ for kind in errors_of_users() if f"`{kind.__name__}`" not in page] == []
    known = {kind.__name__ for kind in errors_of_users()}
    assert set(re.findall(r"^\| `([A-Z][a-z]\w+)`", page, re.M)) - known == set()


def test_the_page_of_the_admin_has_every_field_of_a_change() -> None:
    """`why` of a clear, and the metrics of a publish, could be sent and stood nowhere."""
    rows = re.findall(r"^\| `POST (\S+)` \| operator \| (.*) \|$", text_of("docs/admin.md"), re.M)
    said = {path: set(re.findall(r"`(\w+)`", what)) for path, what in rows}
    assert said == {route.path: {one.name for one in fields(route.body)} for route in ROUTES if route.body is not None}


def test_the_words_of_the_protocol_are_in_the_glossary() -> None:
    rows = re.findall(r"^\| ([^|]+?) \|", text_of("docs/glossary.md"), re.M)
    explained = {word.strip() for row in rows for word in row.split(",")}
    assert WORDS - explained == set()
    assert len(explained) == sum(len(row.split(",")) for row in rows), "a word is explained twice"


def test_every_metric_and_dtype_is_on_its_page() -> None:
    """Somebody writes an alert from the page: no name of it is made up, none is left out."""
    page = text_of("docs/http.md")
    assert re.findall(rf"`({PREFIX}\w+)`", page) == [PREFIX + family.name for family in FAMILIES]
    assert [name for name in KINDS if f"`{name}`" not in page] == []
    page = text_of("docs/monitoring.md")
    assert re.findall(r"^\| `(genlock_(?:fleet|model)_\w+)`", page, re.M) == list(METRICS)


def test_every_event_of_a_worker_is_on_the_page() -> None:
    """Somebody counts lines by their event: none is made up, none is left out."""
    code = "".join((ROOT / name).read_text() for name in ("worker/chronicle.py", "worker/callbacks.py"))
    said = set(re.findall(r'_facts\(\s*"([a-z-]+)"|"event": "([a-z-]+)"', code))
    page = text_of("docs/monitoring.md").partition("| event |")[2].partition("##")[0]
    there = {
        name
        for row in page.splitlines()
        for name in re.findall(r"`([a-z-]+)`", row.split("|")[1] if "|" in row else "")
    }
    assert there == {one or other for one, other in said}


# --- what no test can build --------------------------------------------------------------------------------------------


def test_the_image_is_made_of_what_is_there() -> None:
    """No test builds the image; but what it copies exists and is let in, and its command names a file that was copied."""
    dockerfile = (ROOT / "deploy/Dockerfile").read_text()
    copied = re.search(r"^COPY (deploy/\S+) (\S+)$", dockerfile, re.M)
    assert copied
    let_in = re.findall(r"^!(.+)", (ROOT / ".dockerignore").read_text(), re.M)
    assert copied[1] in let_in
    assert [name for name in let_in if not (ROOT / name).exists()] == []
    assert copied[2] in dockerfile.splitlines()[-1]
