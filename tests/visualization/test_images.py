from __future__ import annotations

import pytest
import torch

from ldm.visualization.images import as_rgb, difference, three_channels, to_bytes


def images(channels: int) -> torch.Tensor:
    return torch.arange(channels).float().view(1, -1, 1, 1).expand(2, -1, 4, 5) / 20


@pytest.mark.parametrize(
    ("channels", "want"),
    [(1, [0, 0, 0]), (2, [0, 0.05, -1]), (3, [0, 0.05, 0.1]), (12, [0, 0.05, 0.1])],
)
def test_any_number_of_channels_can_be_looked_at(channels: int, want: list[float]) -> None:
    shown = as_rgb(images(channels))
    assert shown.shape == (2, 3, 4, 5)
    assert shown[0, :, 0, 0].tolist() == pytest.approx(want)


def test_networks_see_what_was_chosen() -> None:
    assert torch.equal(three_channels(images(3)), images(3))
    assert torch.equal(three_channels(images(1), "repeat"), images(1).expand(-1, 3, -1, -1))
    assert torch.equal(three_channels(images(12), [3, 2, 1]), images(12)[:, [3, 2, 1]])
    assert torch.equal(three_channels(images(3), [2, 1, 0]), images(3).flip(1))


@pytest.mark.parametrize(
    ("channels", "choice"),
    [(1, None), (4, None), (3, "repeat"), (12, "repeat"), (4, [1, 2, 4]), (4, [0, 1]), (4, "rgb")],
)
def test_nothing_is_chosen_silently(channels: int, choice: str | list[int] | None) -> None:
    with pytest.raises(ValueError, match=f"images of {channels} channels.*'repeat'.*3,2,1"):
        three_channels(images(channels), choice)


def test_difference_is_black_where_there_is_none() -> None:
    x = torch.tensor([0.0, 0.0, -1.0, 0.5])
    y = torch.tensor([0.0, 0.1, 1.0, 0.3])
    assert difference(x, y, 4).tolist() == pytest.approx([-1, -0.6, 1, -0.2])


def test_bytes_are_rounded_or_cut_off() -> None:
    values = torch.tensor([-2, -1, -1 + 0.6 / 127.5, 0, 1 - 0.6 / 127.5, 1, 3])
    assert to_bytes(values).tolist() == [0, 0, 1, 128, 254, 255, 255]
    assert to_bytes(values, "truncate").tolist() == [0, 0, 0, 127, 254, 255, 255]
    original = ((values + 1) * 127.5).clamp(0, 255).to(torch.uint8)  # of sample_diffusion.py
    assert torch.equal(to_bytes(values, "truncate"), original)
