"""The net and its data: it learns, and what is broken is really broken."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from genlock.worker.demo.digits import DigitsNet, Training, accuracy, cut_short, load_digits, ruined, save
from safetensors import SafetensorError
from safetensors.torch import load_file


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the training job has it: two threads that wait for each other on busy cores take a hundred times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_no_digit_that_clients_send_was_learned() -> None:
    learned, held_out = load_digits()
    assert (learned.count, held_out.count) == (1438, 359)
    known = {picture.numpy().tobytes() for picture in learned.pictures}
    assert not any(picture.numpy().tobytes() in known for picture in held_out.pictures)
    assert (held_out.pictures.min(), held_out.pictures.max()) == (0, 1)


def test_the_net_learns_and_the_same_seed_learns_the_same() -> None:
    """Golden outputs, accuracies and the story of the demo rest on it."""
    learned, held_out = load_digits()
    one, other = Training(learned), Training(learned)
    before = accuracy(one.net, held_out)
    losses = [one.epoch() for _ in range(3)]
    assert losses == sorted(losses, reverse=True)
    assert accuracy(one.net, held_out) > max(0.7, before)
    assert one.epochs == 3
    other.epoch()
    assert losses[0] == pytest.approx(Training(learned).epoch())


def test_it_scores_ten_digits_for_each_picture() -> None:
    assert DigitsNet()(torch.zeros(5, 8, 8)).shape == (5, 10)


def test_what_is_ruined_has_the_right_shapes_and_no_number(tmp_path: Path) -> None:
    """It must get past everything that looks at keys and shapes only."""
    net = DigitsNet()
    save(ruined(net), tmp_path / "m.safetensors")
    found = load_file(tmp_path / "m.safetensors")
    assert {name: tensor.shape for name, tensor in found.items()} == {n: t.shape for n, t in net.state_dict().items()}
    assert all(tensor.isnan().all() for tensor in found.values())
    assert all(tensor.isfinite().all() for tensor in net.state_dict().values())


def test_what_is_cut_short_is_no_checkpoint(tmp_path: Path) -> None:
    save(DigitsNet(), tmp_path / "m.safetensors")
    cut_short(tmp_path / "m.safetensors", tmp_path / "half.safetensors")
    assert (tmp_path / "half.safetensors").stat().st_size == (tmp_path / "m.safetensors").stat().st_size // 2
    with pytest.raises(SafetensorError):
        load_file(tmp_path / "half.safetensors")
