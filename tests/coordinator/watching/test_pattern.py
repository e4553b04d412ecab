"""Which path is which artifact of which model."""

from pathlib import Path

import pytest
from genlock.coordinator.errors import BadInput
from genlock.coordinator.watching.pattern import Pattern, patterns_of


@pytest.mark.parametrize(
    ("text", "path", "found"),
    [
        ("/d", "/d/m.pt", ("m", "model")),
        ("/d/", "/d/m.v2.safetensors", ("m.v2", "model")),
        ("/d", "/d/m.pt2", ("m", "model")),
        ("/d", "/d/m.tmp", None),
        ("/d", "/d/.m.pt", None),  # what a saver renames later
        ("/d", "/d/e=3.pt", None),
        ("/d", "/d/below/m.pt", None),
        ("/d", "/d", None),
        ("/runs/{model}/best.pt", "/runs/a/best.pt", ("a", "model")),
        ("/runs/{model}/best.pt", "/runs/a/last.pt", None),
        ("/runs/{model}/best.pt", "/runs/a/b/best.pt", None),
        ("/runs/{model}/best.pt", "/runs/.a/best.pt", None),
        ("/runs/*/{model}-*.ckpt", "/runs/41/a-3.ckpt", ("a", "model")),
        ("/runs/{model}/{model}.pt", "/runs/a/a.pt", ("a", "model")),
        ("/runs/{model}/{model}.pt", "/runs/a/b.pt", None),
        ("/runs/{model}-{model}.pt", "/runs/a-a.pt", ("a", "model")),
        ("/runs/{model}/{artifact}.safetensors", "/runs/a/head.safetensors", ("a", "head")),
        ("/runs/{model}/{artifact:cnn,svm}.*", "/runs/a/svm.bin", ("a", "svm")),
        ("/runs/{model}/{artifact:cnn,svm}.*", "/runs/a/mlp.bin", None),
        ("/runs/{model}/{artifact:a,a.b}.pt", "/runs/m/a.b.pt", ("m", "a.b")),
        ("digits=/out/best.pt", "/out/best.pt", ("digits", "model")),
        ("digits=/out/{artifact}.pt", "/out/a.pt", ("digits", "a")),
        ("/runs/lr=0.1/{model}.pt", "/runs/lr=0.1/m.pt", ("m", "model")),
        ("/a.b[c]/{model}+.pt", "/a.b[c]/m+.pt", ("m", "model")),  # nothing of it is a regular expression
    ],
)
def test_which_path_is_what(text: str, path: str, found: tuple[str, str] | None) -> None:
    assert Pattern.of(text).match(Path(path)) == found


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("/runs/*/best.pt", "does not say the model"),
        ("/runs/{artifact}.pt", "does not say the model"),
        ("/runs/{run}/{model}.pt", r"\{run\} means nothing"),
        ("/runs/{model:a,b}.pt", "means nothing"),
        ("/runs/{model}/{artifact:a/b}.pt", "a brace stands alone"),
        ("/runs/{model}/{artifact:a,}.pt", "cannot be the name"),
        ("", "names no file"),
        ("digits=", "names no file"),
        ("..=/out/best.pt", "cannot be the name of a model"),
        ("/a\0b", "names no file"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, why: str) -> None:
    """A pattern that never matches would be a watch that never publishes, and nobody would know."""
    with pytest.raises(BadInput, match=why):
        Pattern.of(text)


def test_a_command_line_is_folders_with_patterns_below_them_or_patterns() -> None:
    found = patterns_of(["/a", "/b", "m=/c/x.pt", "/d/{model}.pt"], ["{model}/best.pt", "{model}/last.pt"])
    texts = [str(p.root) for p in found]
    assert texts == ["/a", "/a", "/b", "/b", "/c", "/d"]
    assert found[1].match(Path("/a/m/last.pt")) == ("m", "model")
    assert [p.match(Path("/a/m.pt")) for p in patterns_of(["/a"])] == [("m", "model")]


def test_a_relative_path_begins_in_the_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert Pattern.of("runs/{model}/best.pt").match(tmp_path / "runs/m/best.pt") == ("m", "model")
    assert Pattern.of("runs/{model}/best.pt").key == Pattern.of(f"{tmp_path}/runs/{{model}}/best.pt").key


def test_it_knows_what_leads_to_it() -> None:
    """The kernel tells of a folder that appears, and of what happens beside it: only what may matter wakes anybody."""
    pattern = Pattern.of("/data/runs/{model}/best.pt")
    led = ("/data", "/data/runs", "/data/runs/m", "/data/runs/m/best.pt")
    assert all(pattern.leads_to(Path(path)) for path in led)
    assert not any(
        pattern.leads_to(Path(path)) for path in ("/data/logs", "/data/runs/m/log", "/data/runs/m/best.pt/x")
    )


def test_listed_artifacts_are_known() -> None:
    assert Pattern.of("/r/{model}/{artifact: cnn , svm}.pt").listed == {"cnn", "svm"}
