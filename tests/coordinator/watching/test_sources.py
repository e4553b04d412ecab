"""What is there now."""

import os
from pathlib import Path

import pytest
from genlock.coordinator.errors import BadInput, InvalidName
from genlock.coordinator.watching.pattern import patterns_of
from genlock.coordinator.watching.sources import File, Found, Named, Patterned


def paths(found: dict[str, File]) -> dict[str, str | None]:
    return {name: file.path.name if file.path and file.identity else None for name, file in found.items()}


def test_files_that_were_named(tmp_path: Path) -> None:
    named = Named({"m": tmp_path / "best.pt", "fusion": {"cnn": str(tmp_path / "a.pt"), "svm": tmp_path / "b.pt"}})
    (tmp_path / "best.pt").write_bytes(b"x")
    (tmp_path / "a.pt").touch()  # empty: somebody has just made it
    (tmp_path / "b.pt").mkdir()
    found = named.look()
    assert {model: paths(parts) for model, parts in found.files.items()} == {
        "m": {"model": "best.pt"},
        "fusion": {"cnn": None, "svm": None},
    }
    assert found.folders == {tmp_path} and not found.open_sets
    assert list(found.oddities) == ["fusion"] and "b.pt, which would be model fusion, is a folder" in str(
        found.oddities
    )
    assert named.concerns(tmp_path / "a.pt") and named.concerns(tmp_path) and not named.concerns(tmp_path / "c.pt")


@pytest.mark.parametrize(
    ("sources", "error"), [({"m": {}}, BadInput), ({"m/x": "a"}, InvalidName), ({"m": {"": "a"}}, InvalidName)]
)
def test_names_that_cannot_be_are_refused(sources: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        Named(sources)  # type: ignore[arg-type]


def test_files_that_patterns_mean(tmp_path: Path) -> None:
    for name in ("a/best.pt", "b/last.pt", "c/x.bin", "c/y.bin", "d/enc.pt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "a file").touch()
    found = Patterned(
        patterns_of([str(tmp_path)], ["{model}/best.pt", "{model}/{artifact}.bin", "{model}/{artifact:enc,head}.pt"])
    ).look()
    assert {model: paths(parts) for model, parts in found.files.items()} == {
        "a": {"model": "best.pt"},
        "c": {"x": "x.bin", "y": "y.bin"},
        "d": {"enc": "enc.pt", "head": None},
    }
    assert found.open_sets == {"c"}
    assert {tmp_path, tmp_path / "a", tmp_path / "b"} <= found.folders and not found.oddities


def test_a_file_is_asked_for_once_in_a_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    stat = Path.stat
    (tmp_path / "m.pt").write_bytes(b"x")
    monkeypatch.setattr(Path, "stat", lambda path, **how: [asked.append(path.name), stat(path, **how)][1])
    for text in ("{}", "{}/{{model}}.pt", "m={}/m.pt"):
        asked.clear()
        assert Patterned(patterns_of([text.format(tmp_path)])).look().files["m"]
        assert asked == ["m.pt"]
    Named({"m": tmp_path / "m.pt"}).look()
    assert asked == ["m.pt"] * 2


def test_models_that_are_left_to_others_are_not_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`sources=` names a file that a pattern means too: it is asked for once, by whoever looks after `sources=`."""
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).write_bytes(b"x")
    asked, stat = list[str](), Path.stat
    monkeypatch.setattr(Path, "stat", lambda path, **how: [asked.append(path.name), stat(path, **how)][1])
    found = Patterned(patterns_of([str(tmp_path)]), but=["a"]).look()
    assert list(found.files) == ["b"] and asked == ["b.pt"]


def test_what_is_no_checkpoint_is_told_apart(tmp_path: Path) -> None:
    """By the model where it is known; what is hidden in a folder beside the checkpoints is nobody's."""
    (tmp_path / "a.pt").touch()
    for name in ("b.pt", "c", "run/best.pt"):
        (tmp_path / name).mkdir(parents=True)
    os.mkfifo(tmp_path / "pipe")
    texts = [tmp_path, f"d={tmp_path}/c", f"e={tmp_path}/e.pt", f"f={tmp_path}/c/*.pt", f"g={tmp_path}/pipe"]
    texts += [tmp_path / "{model}/best.pt", tmp_path / "typo/{model}.pt", tmp_path / "{model}-*"]
    found = Patterned(patterns_of(map(str, texts))).look()
    assert found.files == {}
    assert found.empty == {"a": tmp_path / "a.pt"}
    assert found.absent == {"e": tmp_path / "e.pt", f"{tmp_path}/typo": tmp_path / "typo"}
    assert found.oddities == {
        "b": f"{tmp_path}/b.pt, which would be model b, is a folder: name the file in it",
        "d": f"{tmp_path}/c, which would be model d, is a folder: name the file in it",
        "g": f"{tmp_path}/pipe, which would be model g, is not a regular file",
        "run": f"{tmp_path}/run/best.pt, which would be model run, is a folder: name the file in it",
    }
    assert Found().and_also(found) == found


def test_a_folder_that_is_a_file_is_odd(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = Patterned(patterns_of([f"{tmp_path}/file/{{model}}.pt"])).look()
    assert found.oddities == {f"{tmp_path}/file": f"{tmp_path}/file is no folder"} and not found.absent
