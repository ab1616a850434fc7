from __future__ import annotations

import pytest
import torch

from ldm.denoisers.point_mlp import PointMLP


def network(**options: object) -> PointMLP:
    torch.manual_seed(0)
    model = PointMLP(dim=16, depth=2, **options)  # type: ignore[arg-type]
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_points_are_independent_and_depend_on_everything() -> None:
    model = network(num_classes=3)
    x, t, y = torch.randn(5, 2), torch.tensor([0, 10, 500, 998, 999]), torch.tensor([0, 1, 2, 0, 1])
    out = model(x, t, y=y)
    assert out.shape == (5, 2)
    torch.testing.assert_close(model(x[2:4], t[2:4], y=y[2:4]), out[2:4])
    for changed in ((x + 0.1, t, y), (x, t.flip(0), y), (x, t, (y + 1) % 3)):
        assert not torch.allclose(model(changed[0], changed[1], y=changed[2]), out)


def test_it_starts_at_zero_and_takes_more_coordinates() -> None:
    model = PointMLP(in_channels=3, dim=8, depth=1, frequencies=0)
    x = torch.randn(4, 3)
    assert torch.equal(model(x, torch.zeros(4)), torch.zeros(4, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"x": torch.zeros(2, 3)}, r"x must be points \(B, 2\)"),
        ({"x": torch.zeros(2, 2, 1, 1)}, r"x must be points \(B, 2\)"),
        ({"t": torch.zeros(3)}, r"t must have shape \(2,\)"),
        ({"context": torch.zeros(2, 1, 4)}, "takes no context"),
        ({"y": torch.zeros(2, dtype=torch.long)}, "built without num_classes, got some"),
    ],
)
def test_errors(call: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network()(**({"x": torch.zeros(2, 2), "t": torch.zeros(2)} | call))


def test_missing_and_wrong_classes() -> None:
    model, x, t = network(num_classes=2), torch.zeros(2, 2), torch.zeros(2)
    with pytest.raises(ValueError, match="built with num_classes, got none"):
        model(x, t)
    with pytest.raises(ValueError, match="y must be class ids"):
        model(x, t, y=torch.zeros(2))
    with pytest.raises(ValueError, match="at least 1"):
        PointMLP(dim=0)
