"""`genlock publish` and `genlock rollback`."""

import codecs
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from genlock.coordinator.commands.publishing import artifacts_of, metrics_of, said_of
from genlock.coordinator.flip import Flip
from genlock.coordinator.golden import write_golden

PROGRAM = (sys.executable, "-m", "genlock.coordinator.commands")


# --- what the PATHs mean ---------------------------------------------------------------------------------------------


def test_one_path_is_the_file_of_the_model() -> None:
    """The ordinary case: no name is needed."""
    assert artifacts_of(["out/model.pt"]) == Path("out/model.pt")


def test_named_paths_are_artifacts() -> None:
    """Only the first = divides; a single artifact may have a name too."""
    assert artifacts_of(["cnn=a.pt", "svm=b=1.pt"]) == {"cnn": "a.pt", "svm": "b=1.pt"}
    assert artifacts_of(["cnn=a.pt"]) == {"cnn": "a.pt"}


@pytest.mark.parametrize("path", ["out/lr=0.1/model.pt", "./lr=0.1.pt", "lr=", "=x"])
def test_a_path_with_an_equals_sign_is_still_a_path(path: str) -> None:
    """`out/lr=0.1/model.pt` was taken for the artifact `out/lr` of the file `0.1/model.pt`."""
    assert artifacts_of([path]) == Path(path)


def test_a_file_that_is_there_is_meant_even_if_it_looks_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trainer called its checkpoint `lr=0.1.pt`, and was told that there is no file `0.1.pt`."""
    monkeypatch.chdir(tmp_path)
    Path("lr=0.1.pt").write_text("x")
    assert artifacts_of(["lr=0.1.pt"]) == Path("lr=0.1.pt")


@pytest.mark.parametrize(
    ("paths", "why"), [(["a.pt", "b=b.pt"], "NAME=a.pt"), (["a=1.pt", "a=2.pt"], "'a' stands twice: 1.pt and 2.pt")]
)
def test_several_paths_need_a_name_each(paths: list[str], why: str) -> None:
    """One of two files was silently the model, the other nothing."""
    with pytest.raises(typer.BadParameter, match=why):
        artifacts_of(paths)


# --- metrics ---------------------------------------------------------------------------------------------------------


def test_metrics_of_a_command_line_are_told_with_the_generation(
    genlock: Callable[..., Any], checkpoint: Callable[..., Path]
) -> None:
    """A shell script that trains and publishes had the loss, and could only write it into the message."""
    given = ("--metric", "val_loss=0.12", "--metric", "a=b=1e3", "--metric", "epoch=3")
    assert genlock("publish", "digits", checkpoint(), *given).status == 0
    (row,) = genlock("history", "digits", "--json").document
    assert row["metrics"] == {"val_loss": 0.12, "a=b": 1000.0, "epoch": 3.0}
    assert "val_loss=0.12" in genlock("history", "digits").out


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        (["0.12"], "write NAME=NUMBER"),
        (["=0.12"], "write NAME=NUMBER"),
        (["n" * 129 + "=1"], "write NAME=NUMBER"),
        (["loss=low"], "'low' is no number"),
        (["loss=nan"], "'nan' is no number"),
        (["loss=-inf"], "'-inf' is no number"),
        (["loss=1", "loss=2"], "'loss' stands twice: 1 and 2"),
    ],
)
def test_a_metric_that_is_none_is_refused_before_anything_is_copied(texts: list[str], why: str) -> None:
    """A NaN in it would make a manifest that nobody reads."""
    with pytest.raises(typer.BadParameter, match=why):
        metrics_of(texts)


# --- what people are told --------------------------------------------------------------------------------------------


def flip_of(**other: Any) -> Flip:
    usual: dict[str, Any] = {
        "model": "m",
        "generation": 2,
        "version": "0123456789abcdef",
        "outcome": "committed",
        "request": "r",
    }
    return Flip(**(usual | other))


def test_a_commit_is_told_with_the_seconds_of_its_phases() -> None:
    """People ask what took so long: the copy, or the workers."""
    seconds = {"stage": 1.26, "propose": 0.1, "prepare": 0.4, "fence": 0.003, "total": 1.7}
    told = said_of(flip_of(workers={"h:1": {}, "h:2": {}}, seconds=seconds, size=2_000_000))
    assert told == [
        "m: generation 2 (0123456789ab) is active in 2 workers",
        "  2.0 MB · staged 1.3 s · prepared 400 ms · fenced 3 ms · in all 1.7 s",
    ]


def test_a_commit_without_workers_says_so() -> None:
    """Somebody waited for workers to answer from a model that nobody had asked them for yet."""
    told = said_of(flip_of(unproven=True, seconds={"prepare": 0.0, "total": 0.5}))
    assert told == ["m: generation 2 (0123456789ab) is active (no worker holds the model yet)", "  0 B · in all 500 ms"]


def test_what_nobody_waited_for_says_where_to_look() -> None:
    """`--no-wait` said that the generation was active, which was not so yet."""
    assert "generation 2 (0123456789ab) is candidate" in said_of(flip_of(outcome="candidate"))[0]
    waits = said_of(flip_of(outcome="next", generation=None))[0]
    assert "waits behind" in waits and "genlock status m" in waits and "None" not in waits


# --- publish ---------------------------------------------------------------------------------------------------------


def test_a_publish_without_workers_is_committed(genlock: Callable[..., Any], checkpoint: Callable[..., Path]) -> None:
    """The first publish of all, before any worker runs."""
    ran = genlock("publish", "digits", checkpoint(), "-m", "run 41")
    assert (ran.status, ran.err) == (0, "")
    assert "digits: generation 1" in ran.out and "no worker holds the model yet" in ran.out
    assert genlock("history", "digits", "--json").document[0]["message"] == "run 41"


def test_a_publish_waits_for_the_workers_and_names_them(
    genlock: Callable[..., Any], checkpoint: Callable[..., Path], member: Any, background: Any, wait_for: Any
) -> None:
    """The publish came back before the last worker had changed."""
    worker = member("h:1")

    def work() -> None:
        gen = wait_for(worker.candidate)
        worker.ready(gen)
        wait_for(lambda: worker.state().is_fencing)
        worker.fenced(gen)

    working = background(work)
    ran = genlock(
        "publish", "digits", f"cnn={checkpoint()}", f"svm={checkpoint('2', 'b')}", "--json", "--timeout", "1m"
    )
    working.result()
    assert ran.status == 0 and ran.err == ""
    assert ran.document["outcome"] == "committed" and ran.document["workers"]["h:1"]["state"] == "fenced"
    assert {"stage", "prepare", "fence", "total"} <= ran.document["seconds"].keys()


def test_a_rejected_publish_is_status_3_and_says_who_and_why(
    genlock: Callable[..., Any], checkpoint: Callable[..., Path], member: Any, background: Any, wait_for: Any
) -> None:
    """A training job went on over a broken checkpoint because the command had ended with 0."""
    worker = member("h:1")
    working = background(lambda: worker.bad(wait_for(worker.candidate)))
    ran = genlock("publish", "digits", checkpoint(), "--json")
    working.result()
    assert ran.status == 3
    assert {"outcome": "rejected", "worker": "h:1", "step": "check"}.items() <= ran.document.items()
    assert ran.document["flip"]["generation"] == 1 and "NaN in layer 1" in ran.document["error"]

    ran = genlock("publish", "digits", checkpoint())
    assert ran.status == 3 and "--force" in ran.err
    assert genlock("publish", "digits", checkpoint(), "--json").document["outcome"] == "poisoned"


def test_force_tries_a_poisoned_version_again_and_no_wait_comes_back_at_once(
    genlock: Callable[..., Any], checkpoint: Callable[..., Path], member: Any, background: Any, wait_for: Any
) -> None:
    """After a fault of the workers was mended, the good checkpoint stayed poisoned; --now does not wait behind it."""
    worker = member("h:1")
    working = background(lambda: worker.bad(wait_for(worker.candidate)))
    assert genlock("publish", "digits", checkpoint()).status == 3
    working.result()
    ran = genlock("publish", "digits", checkpoint(), "--force", "--no-wait")
    assert ran.status == 0 and "generation 2" in ran.out and "is candidate" in ran.out

    ran = genlock("publish", "digits", checkpoint("next"), "--no-wait", "--json")
    assert (ran.status, ran.document["outcome"]) == (0, "next")
    ran = genlock("publish", "digits", checkpoint("now"), "--no-wait", "--now", "--json")
    assert (ran.status, ran.document["outcome"], ran.document["generation"]) == (0, "candidate", 3)
    assert genlock("history", "digits", "--json").document[1]["outcome"] == "aborted"


def test_a_share_of_the_workers_is_enough_if_that_was_agreed(
    genlock: Callable[..., Any], checkpoint: Callable[..., Path], member: Any, background: Any, wait_for: Any
) -> None:
    """One worker of many without memory kept the whole fleet from a new generation."""
    good, poor = member("h:1"), member("h:2")

    def work() -> None:
        gen = wait_for(good.candidate)
        good.ready(gen)
        poor.failed(gen)
        wait_for(lambda: good.state().is_fencing)
        good.fenced(gen)
        poor.fenced(gen)

    working = background(work)
    ran = genlock("publish", "digits", checkpoint(), "--agreement", "50%", "--json")
    working.result()
    assert (ran.status, ran.document["outcome"]) == (0, "committed")


def test_golden_outputs_go_along(genlock: Callable[..., Any], checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """Golden outputs are checked to be such a file before anything is proposed."""
    golden = write_golden(tmp_path / "g", [[1.0]], [[2.0]])
    assert genlock("publish", "digits", checkpoint(), "--golden", golden).status == 0
    ran = genlock("publish", "digits", checkpoint(), "--golden", checkpoint("no", "n"), "--json")
    assert (ran.status, ran.document["outcome"]) == (1, "artifact")
    assert len(genlock("history", "digits", "--json").document) == 1


@pytest.mark.parametrize(("what", "why"), [("nothing", "no such file"), ("folder", "folder"), ("empty", "empty")])
def test_a_file_that_cannot_be_published_is_status_1(
    genlock: Callable[..., Any], tmp_path: Path, what: str, why: str
) -> None:
    """A trainer's save had failed, and an empty file went to the workers."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    ran = genlock("publish", "digits", tmp_path / what)
    assert ran.status == 1 and why in ran.err and str(tmp_path / what) in ran.err


def test_an_agreement_that_is_none_is_a_usage_error(
    genlock: Callable[..., Any], checkpoint: Callable[..., Path]
) -> None:
    """`--agreement most` was a traceback from float()."""
    ran = genlock("publish", "digits", checkpoint(), "--agreement", "most")
    assert ran.status == 2 and "`all`" in ran.err


# --- rollback --------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_generations(genlock: Callable[..., Any], checkpoint: Callable[..., Path]) -> None:
    for content in ("1", "2"):
        assert genlock("publish", "digits", checkpoint(content)).status == 0


def test_a_rollback_is_a_new_generation_and_pins(
    two_generations: None, genlock: Callable[..., Any], checkpoint: Callable[..., Path]
) -> None:
    """The trainer's next save undid the rollback within the minute."""
    ran = genlock("rollback", "digits", "-m", "worse on Mondays", "--json")
    assert (ran.status, ran.document["generation"], ran.document["outcome"]) == (0, 3, "committed")
    newest = genlock("history", "digits", "--json").document[0]
    assert (newest["rollback_of"], newest["active"]) == (1, True)

    ran = genlock("publish", "digits", checkpoint("3"))
    assert ran.status == 3 and "worse on Mondays" in ran.err and "genlock unpin digits" in ran.err
    assert genlock("publish", "digits", checkpoint("3"), "--json").document["outcome"] == "pinned"
    assert genlock("unpin", "digits").status == 0
    assert genlock("publish", "digits", checkpoint("3")).status == 0


def test_a_rollback_to_a_generation_without_a_pin(two_generations: None, genlock: Callable[..., Any]) -> None:
    """Where no training job runs, a pin is only in the way."""
    ran = genlock("rollback", "digits", "--to", "1", "--no-pin")
    assert ran.status == 0 and "digits: generation 3" in ran.out and "pinned" not in ran.out
    assert genlock("status", "digits", "--json").document["pin"] is None


def test_a_rollback_says_that_it_pins(two_generations: None, genlock: Callable[..., Any]) -> None:
    """The next publish was refused, and nobody had been told of a pin."""
    ran = genlock("rollback", "digits")
    assert ran.status == 0 and "pinned there now; `genlock unpin digits` ends it" in ran.out


def test_a_rollback_to_nowhere_is_status_1(two_generations: None, genlock: Callable[..., Any]) -> None:
    """The command was written rightly, there is only no such generation: not a usage error."""
    ran = genlock("rollback", "digits", "--to", "7")
    assert ran.status == 1 and "generation 7" in ran.err


# --- a terminal, and Ctrl-C ------------------------------------------------------------------------------------------


class Terminal:
    """A process of the command line whose stderr is a terminal of 80 columns."""

    def __init__(self, *arguments: str | Path) -> None:
        self._ours, theirs = pty.openpty()
        environment = os.environ | {"TERM": "xterm", "COLUMNS": "80"}
        command = [*PROGRAM, *map(str, arguments)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True, env=environment)
        os.close(theirs)
        self.text = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()  # a read may end within a character

    def read_until(self, wanted: str, timeout_s: float = 30) -> None:
        end = time.monotonic() + timeout_s
        while wanted not in self.text:
            assert time.monotonic() < end, f"{wanted!r} is not in {self.text!r}"
            self._read(0.1)

    def end(self) -> tuple[int, str]:
        """Its exit status and stdout, when it has ended."""
        out, _ = self.process.communicate(timeout=30)
        while self._read(0.0):
            pass
        return self.process.returncode, out

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        os.close(self._ours)

    def _read(self, timeout_s: float) -> bool:
        if not select.select([self._ours], [], [], timeout_s)[0]:
            return False
        try:
            found = os.read(self._ours, 65536)
        except OSError:  # nobody has the other end any more
            return False
        self.text += self._decoder.decode(found)
        return bool(found)


@pytest.fixture
def terminal(environment: None) -> Iterator[Callable[..., Terminal]]:
    made: list[Terminal] = []

    def make(*arguments: str | Path) -> Terminal:
        made.append(Terminal(*arguments))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_terminal_shows_how_many_workers_are_ready(
    terminal: Callable[..., Terminal], checkpoint: Callable[..., Path], member: Any, wait_for: Any
) -> None:
    """A publish to a slow fleet looked as if it hung."""
    worker = member("h:1")
    publish = terminal("publish", "digits", checkpoint(), "--json")
    gen = wait_for(worker.candidate)
    publish.read_until("0 of 1 ready")
    worker.ready(gen)
    wait_for(lambda: worker.state().is_fencing)
    worker.fenced(gen)
    status, out = publish.end()
    assert status == 0 and out.startswith("{") and out.rstrip().endswith("}")
    assert "staging" in publish.text and "waiting" in publish.text


def test_ctrl_c_says_that_the_proposal_goes_on(
    terminal: Callable[..., Terminal],
    genlock: Callable[..., Any],
    checkpoint: Callable[..., Path],
    member: Any,
    wait_for: Any,
) -> None:
    """Somebody stopped a publish with Ctrl-C, and the fleet changed to it a minute later."""
    worker = member("h:1")
    publish = terminal("publish", "digits", checkpoint())
    gen = wait_for(worker.candidate)
    publish.read_until("0 of 1 ready")
    publish.process.send_signal(signal.SIGINT)
    assert publish.end() == (130, "")
    assert "genlock abort digits" in publish.text and "Traceback" not in publish.text
    ran = genlock("abort", "digits", "-m", "a mistake", "--json")
    assert (ran.status, ran.document) == (0, {"outcome": "aborted", "model": "digits", "generation": gen})
