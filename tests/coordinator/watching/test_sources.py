"""What is there now."""

from pathlib import Path

import pytest
from genlock.coordinator.errors import BadInput, InvalidName
from genlock.coordinator.watching.pattern import patterns_of
from genlock.coordinator.watching.sources import File, Named, Patterned


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
