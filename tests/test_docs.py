"""What the pages show is what the code does: every Python block runs by itself, every link leads somewhere."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from genlock.coordinator.admin.figures import METRICS
from genlock.coordinator.commands.program import program
from genlock.coordinator.settings import TABLE, reference
from genlock.worker.exposition import FAMILIES, PREFIX
from genlock.worker.wire import KINDS

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])

#: A client of the Flask block: its status, and the header that the page promises.
ASK = """
done = app.test_client().post("/predict", json=[[0.0] * 64])
print(done.status_code, done.headers["X-Genlock-Generation"], len(done.get_json()["scores"][0]))
"""


def blocks(page: str) -> list[str]:
    """The Python blocks of a page."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)


def run(code: str, folder: Path, redis_url: str) -> str:
    """What a process of its own prints, with nothing but the block, the folder and the server."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        env={"GENLOCK_REDIS_URL": redis_url, "GENLOCK_STATE_DIR": str(folder), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_loop_of_the_readme_runs(tmp_path: Path, redis_url: str) -> None:
    """A newcomer saves each Python block of the README as a program, and starts one after the other."""
    trainer, worker, service = blocks("README.md")
    assert run(trainer, tmp_path, redis_url) == "committed 1"
    assert re.fullmatch(r"1 [0-9a-z:]{12} False", run(worker, tmp_path, redis_url))
    assert run(service + ASK, tmp_path, redis_url) == "200 1 10"


def test_each_block_about_serving_runs(tmp_path: Path, redis_url: str) -> None:
    """Loaders of all kinds, and golden outputs, each as a program of its own."""
    printed = [run(code, tmp_path, redis_url) for code in blocks("docs/serving.md")]
    assert printed == ["torch.Size([1, 2]) torch.Size([1, 2])", "['body', 'head']", "committed"]


def test_arguments_win_as_the_configuration_page_shows(tmp_path: Path, redis_url: str) -> None:
    (code,) = blocks("docs/configuration.md")
    assert run(code, tmp_path, redis_url) == f"5.0 {4 * 2**30} 3600.0"


def test_the_fields_of_the_settings_are_all_on_the_page() -> None:
    page = (ROOT / "docs/configuration.md").read_text().partition("| variable |")[0]
    assert [row.field for row in TABLE if f"`{row.field}`" not in page] == []


def test_every_metric_and_dtype_is_on_the_page() -> None:
    """Somebody writes an alert from the page: no name of it is made up, none is left out."""
    page = (ROOT / "docs/http.md").read_text()
    assert re.findall(rf"`({PREFIX}\w+)`", page) == [PREFIX + family.name for family in FAMILIES]
    assert [name for name in KINDS if f"`{name}`" not in page] == []
    page = (ROOT / "docs/monitoring.md").read_text()
    assert re.findall(r"^\| `(genlock_(?:fleet|model)_\w+)`", page, re.M) == list(METRICS)


def test_every_event_of_a_worker_is_on_the_page() -> None:
    """Somebody counts lines by their event: none is made up, none is left out."""
    code = "".join((ROOT / name).read_text() for name in ("worker/runtime.py", "worker/callbacks.py"))
    said = set(re.findall(r'_facts\(\s*"([a-z-]+)"|"event": "([a-z-]+)"', code))
    page = (ROOT / "docs/monitoring.md").read_text().partition("| event |")[2].partition("##")[0]
    told = {
        name
        for row in page.splitlines()
        for name in re.findall(r"`([a-z-]+)`", row.split("|")[1] if "|" in row else "")
    }
    assert told == {one or other for one, other in said}


def test_every_command_of_the_operators_page_can_be_typed() -> None:
    """Somebody copies a line at three in the morning: command, arguments and options are those of the program."""
    page = (ROOT / "docs/operating.md").read_text()
    lines = [line.replace("MODEL", "digits") for line in re.findall(r"`genlock ([^`]+)`", page)]
    lines += re.findall(r"^\$ genlock (.*)", page, re.M)
    assert len(lines) > 25
    whole = program()
    for line in lines:
        name, *arguments = shlex.split(line)
        command = whole.get_command(whole.make_context("genlock", [name]), name)
        given = arguments or (["digits"] if name == "rollback" else [])
        assert command.make_context(name, given).args == [], line


def test_the_user_of_an_acl_is_one_line() -> None:
    """A server reads one user in each line of its ACL file, and refuses the file otherwise."""
    (block,) = re.findall(r"```\n(user .*?)```", (ROOT / "docs/redis.md").read_text(), re.S)
    assert block.count("\n") == 1


def test_the_image_is_made_of_what_is_there() -> None:
    """No test builds the image; but what it copies exists and is let in, and its command names a file that was copied."""
    dockerfile = (ROOT / "deploy/Dockerfile").read_text()
    copied = re.search(r"^COPY (deploy/\S+) (\S+)$", dockerfile, re.M)
    assert copied
    let_in = re.findall(r"^!(.+)", (ROOT / ".dockerignore").read_text(), re.M)
    assert copied[1] in let_in
    assert [name for name in let_in if not (ROOT / name).exists()] == []
    assert copied[2] in dockerfile.splitlines()[-1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#]+)#?([^)]*)\)", page.read_text()):
        assert (page.parent / target).exists(), target
        headings = re.findall(r"^#+ (.*)", (page.parent / target).read_text(), re.M) if anchor else []
        assert not anchor or anchor in [heading.lower().replace(" ", "-") for heading in headings], anchor


def test_the_configuration_reference_is_made_from_the_settings() -> None:
    assert (ROOT / "docs/configuration.md").read_text().endswith("\n\n" + reference())
