from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ldm.denoisers.unet import UNet

SMALL: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 3,
    "model_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": [1, 2],
    "attention_resolutions": [2],
}
CROSS: dict[str, Any] = {**SMALL, "use_spatial_transformer": True, "context_dim": 8}


def unet(**options: Any) -> UNet:
    """A network whose zero-initialised layers are not zero any more."""
    torch.manual_seed(0)
    model = UNet(**options)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def inputs(batch: int = 2, side: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 4, side, side, generator=generator)
    return x, torch.arange(batch) * 100


def test_a_new_network_predicts_zero() -> None:
    assert not UNet(**SMALL)(*inputs()).any()


def test_defaults_are_enough() -> None:
    model = UNet(in_channels=4, out_channels=4, model_channels=32)
    x, t = inputs(side=8)
    assert model(x, t).shape == x.shape


def test_narrow_networks_with_fewer_groups() -> None:
    model = unet(**{**SMALL, "model_channels": 24}, num_heads=2, norm_groups=8)
    x, t = inputs()
    assert model(x, t).shape == (2, 3, 4, 4)
    groups = {m.num_groups for m in model.modules() if isinstance(m, torch.nn.GroupNorm)}
    assert groups == {8}


@pytest.mark.parametrize("sizes", [(1, 4, 6, 10), (3, 4, 2, 8)])
def test_any_multiple_of_the_factor(sizes: tuple[int, ...]) -> None:
    y = unet(**SMALL)(torch.randn(sizes), torch.zeros(sizes[0]))
    assert y.shape == (sizes[0], 3, *sizes[2:])


@pytest.mark.parametrize(
    "options",
    [
        SMALL,
        {**SMALL, "num_classes": 3},
        {**SMALL, "resblock_updown": True, "use_scale_shift_norm": True},
        CROSS,
        {**CROSS, "transformer_depth": 2, "use_checkpoint": True},
        {**CROSS, "use_linear_in_transformer": True},
    ],
)
def test_every_parameter_gets_a_gradient(options: dict[str, Any]) -> None:
    model = unet(**options)
    x, t = inputs()
    context = torch.randn(2, 3, 8) if "context_dim" in options else None
    y = torch.tensor([0, 1]) if "num_classes" in options else None
    out = model(x, t, context, y)
    (out * torch.randn_like(out)).sum().backward()
    assert [k for k, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(
    "options", [SMALL, CROSS, {**SMALL, "use_spatial_transformer": True}, {**SMALL, "dropout": 0.3}]
)
def test_checkpointing_changes_no_gradient(options: dict[str, Any]) -> None:
    x, t = inputs()
    context = torch.randn(2, 3, 8) if "context_dim" in options else None
    results = []
    for use_checkpoint in (False, True):
        model = unet(**options, use_checkpoint=use_checkpoint)
        torch.manual_seed(3)
        out = model(x, t, context)
        out.square().sum().backward()
        results.append([out.detach(), *(p.grad for p in model.parameters())])
    for plain, recomputed in zip(*results, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_checkpointing_stores_less() -> None:
    stored = []
    for use_checkpoint in (False, True):
        model = unet(**SMALL, use_checkpoint=use_checkpoint)
        sizes: list[int] = []

        def pack(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(*inputs(side=16))
        stored.append(sum(sizes))
    assert stored[1] < 0.5 * stored[0]


def test_conditions_change_the_prediction() -> None:
    x, t = inputs()
    model = unet(**CROSS)
    a, b = torch.randn(2, 2, 3, 8)
    assert not torch.allclose(model(x, t, a), model(x, t, b), atol=1e-4)
    model = unet(**SMALL, num_classes=5)
    ids = torch.tensor([1, 2])
    assert not torch.allclose(model(x, t, y=ids), model(x, t, y=ids + 1), atol=1e-4)
    assert not torch.allclose(model(x, t, y=ids), model(x, t + 500, y=ids), atol=1e-4)


def test_linear_projections_are_the_same_function() -> None:
    """Stable Diffusion 2 stores them without the two axes of a 1x1 convolution."""
    convolutions = unet(**CROSS)
    linear = UNet(**CROSS, use_linear_in_transformer=True)
    state = dict(convolutions.state_dict())
    names = [key for key in state if key.endswith(("proj_in.weight", "proj_out.weight"))]
    assert len(names) == 2 * 4
    state |= {key: state[key][:, :, 0, 0] for key in names}
    assert list(state) == list(linear.state_dict())
    linear.load_state_dict(state)
    x, t = inputs()
    context = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(linear(x, t, context), convolutions(x, t, context))
    new = UNet(**CROSS, use_linear_in_transformer=True)
    assert not new(x, t, context).any(), "starts at zero too"


def test_samples_of_a_batch_are_independent() -> None:
    model = unet(**CROSS)
    x, t = inputs(batch=3)
    context = torch.randn(3, 2, 8)
    together = model(x, t, context)
    alone = torch.cat([model(x[i : i + 1], t[i : i + 1], context[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_order_of_context_does_not_matter() -> None:
    model = unet(**CROSS)
    x, t = inputs()
    context = torch.randn(2, 5, 8)
    torch.testing.assert_close(model(x, t, context), model(x, t, context.flip(1)))


def test_under_autocast_the_result_has_the_dtype_of_x_and_is_close() -> None:
    model = unet(**CROSS)
    x, t = inputs()
    context = torch.randn(2, 3, 8)
    want = model(x, t, context)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = model(x, t, context)
    assert got.dtype == torch.float32
    assert (got - want).norm() < 0.05 * want.norm()


def test_half_precision_weights() -> None:
    model = unet(**CROSS).to(torch.bfloat16)
    x, t = inputs()
    out = model(x.bfloat16(), t, torch.randn(2, 3, 8).bfloat16())
    assert out.dtype == torch.bfloat16


def test_channels_last_gives_the_same() -> None:
    model = unet(**CROSS)
    x, t = inputs()
    context = torch.randn(2, 3, 8)
    want = model(x, t, context)
    model = model.to(memory_format=torch.channels_last)
    got = model(x.contiguous(memory_format=torch.channels_last), t, context)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert got.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
def test_compiles_without_graph_breaks() -> None:
    model = unet(**{**CROSS, "channel_mult": [1], "num_classes": 3})
    x, t = inputs()
    arguments = x, t, torch.randn(2, 3, 8), torch.tensor([0, 1])
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*arguments), model(*arguments))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channel_mult": [2, 4]}, "must start with 1"),
        ({"channel_mult": []}, "must start with 1"),
        ({"context_dim": 8}, "use_spatial_transformer"),
        ({"use_linear_in_transformer": True}, "needs use_spatial_transformer=True"),
        ({"model_channels": 48}, "48 channels .* multiple of 32"),
        ({"num_head_channels": 24}, "do not fill 64 channels"),
        ({"num_heads": 5}, "over 5 heads"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNet(**{**SMALL, **options})


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        ({}, {"x": torch.zeros(2, 3, 4, 4)}, r"x must be \(B, 4, h, w\)"),
        ({}, {"t": torch.zeros(3)}, r"t must have shape \(2,\)"),
        ({}, {"context": torch.zeros(2, 1, 8)}, "without context_dim"),
        ({}, {"y": torch.zeros(2).long()}, "without num_classes"),
        (CROSS, {}, r"context must be \(2, L, 8\), got None"),
        (CROSS, {"context": torch.zeros(1, 3, 8)}, r"got \(1, 3, 8\)"),
        (CROSS, {"context": torch.zeros(2, 3, 9)}, r"got \(2, 3, 9\)"),
        ({"num_classes": 3}, {}, "y must be class ids .* got None"),
        ({"num_classes": 3}, {"y": torch.zeros(2)}, "float32"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    options: dict[str, Any], arguments: dict[str, Tensor], message: str
) -> None:
    x, t = inputs()
    with pytest.raises(ValueError, match=message):
        UNet(**{**SMALL, **options})(**{"x": x, "t": t, **arguments})
