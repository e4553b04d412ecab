"""Each loader on good files, on files of another model, and on archives with code in them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from genlock.coordinator.errors import BadCheckpoint, LoadFailed, SettingsInvalid
from genlock.coordinator.manifest import Manifest
from genlock.coordinator.store import Store
from genlock.worker import loaders
from genlock.worker.checkpoint import Checkpoint
from genlock.worker.loaders import exported_program, loader_for, state_dict_into
from safetensors.torch import save_file, save_model
from torch import nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8)
        self.last = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(self.first(x)).relu())


class Rotary(nn.Module):
    """A buffer that the constructor computes and does not save, and a plain attribute like it."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(4, 4)
        self.register_buffer("freq", 10.0 ** -torch.arange(4.0), persistent=False)
        self.scale = torch.full((4,), 2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(x) * self.freq * self.scale


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(x))


class Unregistered(nn.Module):
    """A weight in a list, which no state dict knows: whatever it is filled with is what requests get."""

    def __init__(self) -> None:
        super().__init__()
        self.known = nn.Linear(2, 2)
        self.hidden = [nn.Parameter(torch.empty(2, 2))]
        nn.init.uniform_(self.hidden[0], 5.0, 6.0)


class Inverting(nn.Module):
    """A constructor that fails on weights which nobody has filled."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 3)
        self.b = nn.Parameter(torch.zeros(3))
        nn.init.normal_(self.b, mean=9.0, std=0.1)
        if self.b.detach().min() < 1.0:
            raise ValueError("the constructor needs real numbers")


@pytest.fixture
def publish(tmp_path: Path) -> Callable[[Path], Checkpoint]:
    store = Store(tmp_path / "store")

    def publish(path: Path) -> Checkpoint:
        artifact = store.stage(path, name="model")
        return Checkpoint("m", 1, Manifest.of("m", [artifact], created_at=0.0), store)

    return publish


@pytest.fixture
def saved(tmp_path: Path, publish: Callable[[Path], Checkpoint]) -> Callable[..., Checkpoint]:
    """A state dict → a checkpoint, by safetensors or by torch.save."""

    def saved(state: dict[str, Any], save: Callable[..., None] = save_file) -> Checkpoint:
        save(state, tmp_path / "file")
        return publish(tmp_path / "file")

    return saved


def counted(factory: Callable[[], nn.Module]) -> tuple[Callable[[], nn.Module], list[nn.Module]]:
    """The factory, and every module that it has made."""
    made: list[nn.Module] = []

    def make() -> nn.Module:
        made.append(factory())
        return made[-1]

    return make, made


# --- state_dict_into --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [save_file, torch.save])
@pytest.mark.parametrize("make", [Net, Rotary])
def test_a_module_answers_as_the_one_that_was_saved(
    make: Callable[[], nn.Module], save: Callable[..., None], saved: Callable[..., Checkpoint]
) -> None:
    trained = make().eval()
    module = state_dict_into(make)(saved(trained.state_dict(), save))
    x = torch.randn(3, 4)
    with torch.no_grad():
        assert torch.equal(module(x), trained(x))
    assert not module.training and not any(weight.requires_grad for weight in module.parameters())


def test_weights_are_those_of_the_file_not_copies(saved: Callable[..., Checkpoint]) -> None:
    checkpoint = saved(Net().state_dict())
    module = state_dict_into(Net)(checkpoint)
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    ours = [row[0].split("-") for row in maps if row[-1] == str(checkpoint.path())]
    mapped = [(int(start, 16), int(end, 16)) for start, end in ours]
    for weight in module.parameters():
        assert any(start <= weight.data_ptr() < end for start, end in mapped)


def test_computed_buffers_are_there_and_the_module_is_made_once(saved: Callable[..., Checkpoint]) -> None:
    """Issue 2, trap: on the meta device a rotary table is lost, and every answer is wrong."""
    make, made = counted(Rotary)
    module = state_dict_into(make)(saved(Rotary().state_dict()))
    assert module.freq.tolist() == pytest.approx([1.0, 0.1, 0.01, 0.001])
    assert module.scale.tolist() == [2.0] * 4 and len(made) == 1


def test_no_weight_is_filled_with_random_numbers(
    saved: Callable[..., Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    """200 MB of them take 700 ms of the cores that answer requests; and only in the loader's own context are they left out."""
    made: list[nn.Parameter] = []

    def make() -> nn.Module:
        with torch.no_grad():
            module = nn.ParameterList([nn.Parameter(torch.zeros(3)) for _ in range(7)])
        nn.init.normal_(module[0])
        nn.init.kaiming_uniform_(tensor=module[1].view(1, 3))  # a view: not a Parameter, really filled
        nn.init.xavier_uniform_(nn.Parameter(torch.zeros(2, 2)))
        nn.init.trunc_normal_(module[2])
        nn.init.uniform_(tensor=module[3])
        module[4].data.normal_()
        nn.init.ones_(module[5])
        made[:] = [weight.detach().clone() for weight in module]
        return module

    state = {str(n): torch.full((3,), float(n)) for n in range(7)}
    module = state_dict_into(make)(saved(state))
    filled = [bool(weight.any()) for weight in made]
    assert filled == [False, True, False, False, True, True, False]
    assert [weight[0].item() for weight in module] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert nn.init.normal_(nn.Parameter(torch.zeros(3))).detach().any()


def test_a_weight_that_the_file_does_not_have_is_filled_after_all(saved: Callable[..., Checkpoint]) -> None:
    make, made = counted(Unregistered)
    loader = state_dict_into(make)
    checkpoint = saved(Unregistered().state_dict())
    for expected in (2, 3):  # the second time it is known that this factory needs it
        module = loader(checkpoint)
        assert module.hidden[0].detach().min() >= 5.0
        assert len(made) == expected


def test_a_constructor_that_needs_its_numbers_gets_them(saved: Callable[..., Checkpoint]) -> None:
    state = {**nn.Linear(3, 3).state_dict(prefix="a."), "b": torch.ones(3)}
    assert state_dict_into(Inverting)(saved(state)).b.tolist() == [1.0] * 3


@pytest.mark.parametrize("save", ["all", "one"])
def test_tied_weights(save: str, tmp_path: Path, publish: Callable[[Path], Checkpoint]) -> None:
    """torch.save keeps both names, safetensors one of them: neither is an error, and neither doubles the memory."""
    trained = Tied()
    if save == "all":
        torch.save(trained.state_dict(), tmp_path / "file")
    else:
        save_model(trained, str(tmp_path / "file"))
    module = state_dict_into(Tied)(publish(tmp_path / "file"))
    assert torch.equal(module(torch.arange(5)), trained(torch.arange(5)))
    assert module.head.weight.data_ptr() == module.embed.weight.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_half_precision(dtype: torch.dtype, saved: Callable[..., Checkpoint]) -> None:
    module = state_dict_into(lambda: nn.Linear(2, 2))(saved(nn.Linear(2, 2).to(dtype).state_dict()))
    assert module(torch.ones(1, 2, dtype=dtype)).dtype == dtype


def test_a_module_with_integers_and_extra_state(saved: Callable[..., Checkpoint]) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.arange(3))
            self.extra: Any = None

        def get_extra_state(self) -> Any:
            return {"scale": 3}

        def set_extra_state(self, state: Any) -> None:
            self.extra = state

    module = state_dict_into(Scaled)(saved(Scaled().state_dict(), torch.save))
    assert module.extra == {"scale": 3} and module.table.tolist() == [0, 1, 2]


def test_other_keys_are_listed(saved: Callable[..., Checkpoint]) -> None:
    state = Net().state_dict()
    renamed = {f"model.{name}": tensor for name, tensor in state.items()}
    with pytest.raises(BadCheckpoint) as caught:
        state_dict_into(Net)(saved(renamed))
    assert caught.value.step == "shapes"
    assert "missing: 'first.weight', 'first.bias'" in caught.value.why
    assert f"and {len(state) - 4} more; unexpected: 'model.first" in caught.value.why


def test_other_shapes_are_listed(saved: Callable[..., Checkpoint]) -> None:
    with pytest.raises(BadCheckpoint, match=r"'weight' has shape \(3, 2\), the module wants \(2, 2\)") as caught:
        state_dict_into(lambda: nn.Linear(2, 2))(saved(nn.Linear(2, 3).state_dict()))
    assert caught.value.step == "shapes"


def test_integers_in_place_of_weights_are_refused(saved: Callable[..., Checkpoint]) -> None:
    """Without this they would be assigned, and the first request would fail in every worker."""
    state = {name: tensor.to(torch.int64) for name, tensor in nn.Linear(2, 2).state_dict().items()}
    with pytest.raises(BadCheckpoint, match=r"torch\.int64 in the file and torch\.float32 in the module"):
        state_dict_into(lambda: nn.Linear(2, 2))(saved(state))


class Stubborn(nn.Linear):
    """Fails in load_state_dict for a reason of its own."""

    text = "the layer refuses"

    def __init__(self) -> None:
        super().__init__(2, 2)

    def load_state_dict(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError(self.text)


def test_a_layer_that_refuses_in_its_own_words(
    saved: Callable[..., Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = saved(nn.Linear(2, 2).state_dict())
    with pytest.raises(BadCheckpoint, match="the layer refuses"):
        state_dict_into(Stubborn)(checkpoint)
    monkeypatch.setattr(Stubborn, "text", "can't allocate memory")
    with pytest.raises(RuntimeError, match="can't allocate"):
        state_dict_into(Stubborn)(checkpoint)


@pytest.mark.parametrize("factory", [lambda: 1 / 0, lambda: "no module"])
def test_a_broken_factory_says_nothing_about_the_file(factory: Any, saved: Callable[..., Checkpoint]) -> None:
    """A worker with an old program would poison a good version for the whole fleet (R13)."""
    with pytest.raises(LoadFailed, match=r"ZeroDivisionError|not an nn\.Module"):
        state_dict_into(factory)(saved({"a": torch.zeros(1)}))


# --- exported_program -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """An exported Rotary, and its answer to ones."""
    net = Rotary().eval()
    path = tmp_path_factory.mktemp("program") / "program.pt2"
    torch.export.save(torch.export.export(net, (torch.ones(2, 4),)), path)
    return path, net(torch.ones(2, 4)).detach()


def rewritten(source: Path, target: Path, **changes: bytes | None) -> Path:
    """A copy of an archive in which files are replaced, added or left out (None); `/` is written `__`."""
    changed = {name.replace("__", "/"): body for name, body in changes.items()}
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        top = old.namelist()[0].partition("/")[0]
        for entry in old.infolist():
            if entry.filename.partition("/")[2] not in {_real(name) for name in changed}:
                new.writestr(entry.filename, old.read(entry))
        for name, body in changed.items():
            if body is not None:
                new.writestr(f"{top}/{_real(name)}", body)
    return target


def _real(name: str) -> str:
    return {"weights": loaders._CONFIGS[0], "constants": loaders._CONFIGS[1], "samples": loaders._SAMPLES}.get(
        name, name
    )


def test_an_exported_program_needs_no_code(
    program: tuple[Path, torch.Tensor], publish: Callable[[Path], Checkpoint]
) -> None:
    path, expected = program
    module = exported_program()(publish(path))
    assert torch.equal(module(torch.ones(2, 4)), expected)
    assert not any(weight.requires_grad for weight in module.parameters())


def test_an_archive_written_again_is_still_a_program(
    program: tuple[Path, torch.Tensor], publish: Callable[[Path], Checkpoint], tmp_path: Path
) -> None:
    """What the tests below change is the only thing that is wrong with their archives."""
    same = publish(rewritten(program[0], tmp_path / "same"))
    assert torch.equal(exported_program()(same)(torch.ones(2, 4)), program[1])


class Evil:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return print, ("this must never be printed",)


def _torch_saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _config(**row: Any) -> bytes:
    return json.dumps({"config": {"proj.weight": row}}).encode()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"samples": _torch_saved(((Evil(),), {}))}, "asks for print, which is code"),
        ({"samples": b"no archive"}, "truncated"),
        ({"samples": None}, "sample_inputs/model.pt is missing"),
        ({"weights": _config(use_pickle=True, path_name="weight_0")}, "'proj.weight' is a pickled object"),
        ({"constants": _config(use_pickle=False, path_name="opaque_obj_0")}, "pickled object"),
        ({"constants": None}, "constants_config.json is missing"),
        ({"weights": b"{}"}, "KeyError"),
        ({"data__weights__model.pt": _torch_saved(Evil())}, "old torch"),
        ({"data__aotinductor__model__code.so": b"\x7fELF"}, "compiled code"),
        ({"models__second.json": b"{}"}, "one model"),
        ({"models__model.json": None}, "one model"),
        ({"models__model.json": b"{}"}, "exported program"),
    ],
)
def test_a_program_with_something_to_run_is_refused(
    changes: dict[str, bytes | None],
    why: str,
    program: tuple[Path, torch.Tensor],
    publish: Callable[[Path], Checkpoint],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """torch.export.load unpickles four parts of an archive without `weights_only`, and loads compiled code."""
    checkpoint = publish(rewritten(program[0], tmp_path / "evil", **changes))
    with pytest.raises(BadCheckpoint) as caught:
        exported_program()(checkpoint)
    assert caught.value.step == "format" and why in caught.value.why
    assert "never be printed" not in capsys.readouterr().out


def test_other_files_are_no_programs(saved: Callable[..., Checkpoint]) -> None:
    """The most common mistake: weights for a model without a loader. One such worker poisoned a good version for the fleet (R13)."""
    for save in (save_file, torch.save):
        with pytest.raises(
            LoadFailed, match=r"no loader for the model: configure one, such as state_dict_into"
        ) as caught:
            exported_program()(saved({"a": torch.zeros(1)}, save))
        assert caught.value.step == "loader"


def test_a_program_that_went_away_is_not_bad(
    program: tuple[Path, torch.Tensor], publish: Callable[[Path], Checkpoint]
) -> None:
    checkpoint = publish(program[0])
    checkpoint.path().unlink()
    with pytest.raises(FileNotFoundError):
        exported_program()(checkpoint)


# --- loader_for -------------------------------------------------------------------------------------------------------


def test_what_stands_for_a_loader(saved: Callable[..., Checkpoint]) -> None:
    checkpoint = saved(Net().state_dict())

    def own(checkpoint: Checkpoint) -> str:
        return checkpoint.model

    assert loader_for(own) is own
    assert loader_for(dict) is dict
    assert isinstance(loader_for(Net)(checkpoint), Net)
    assert isinstance(loader_for(lambda: Net())(checkpoint), Net)
    assert isinstance(loader_for(partial(state_dict_into, Net)()).__call__(checkpoint), Net)
    for nothing in (None, ""):
        with pytest.raises(LoadFailed, match="no loader"):
            loader_for(nothing)(checkpoint)


def test_a_loader_by_name() -> None:
    assert loader_for("genlock.worker.loaders:loader_for") is loader_for
    assert loader_for("genlock.worker.checkpoint:Checkpoint.path") is Checkpoint.path


@pytest.mark.parametrize(
    "spec",
    [
        "no.such.module:name",
        "genlock.worker.loaders:nothing",
        "genlock.worker.loaders",
        ":name",
        "genlock.worker.loaders:__name__",
        "genlock.worker.loaders:_NAMED",
        7,
    ],
)
def test_a_spec_that_names_no_loader_is_said_at_once(spec: Any) -> None:
    """Not at the first load, where it would look like a bad checkpoint."""
    with pytest.raises(SettingsInvalid, match="loader"):
        loader_for(spec)


def test_a_module_that_fails_while_it_is_imported_names_no_loader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fails_at_import.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingsInvalid, match="ZeroDivisionError"):
        loader_for("fails_at_import:Net")


def test_importing_the_rooms_loads_no_torch() -> None:
    """torch in the gunicorn master hangs its children (R12)."""
    script = (
        "import sys, genlock.worker.loading; sys.exit('torch' in sys.modules or 'safetensors.torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0
