from __future__ import annotations

import pytest
import torch

from ldm.errors import ConfigError
from ldm.losses.adversarial import patch_discriminator
from tests.parity import assert_close, formula_weights, load_case, official_keys


def test_golden_batch_norm_case() -> None:
    case = load_case("nlayer_discriminator")
    sizes = case.config
    weights = {k.removeprefix("bn."): v for k, v in case.weights.items() if k.startswith("bn.")}

    def fresh() -> torch.nn.Module:
        net = patch_discriminator(sizes["input_nc"], sizes["ndf"], sizes["n_layers"])
        net.load_state_dict(weights)
        return net.train()

    assert_close(fresh()(case.inputs["x_small"]), case.outputs["bn.train_y_small"])
    net = fresh()
    x = case.inputs["x"].clone().requires_grad_()
    y = net(x)
    assert_close(y, case.outputs["bn.train_y"])
    y.mean().backward()
    assert_close(x.grad, case.outputs["bn.train_grad_x"])
    buffers = dict(net.named_buffers())
    after = {k: v for k, v in case.outputs.items() if k.startswith("bn.after.")}
    assert len(after) == len(buffers) == 9
    for key, want in after.items():
        assert_close(buffers[key.removeprefix("bn.after.")], want, what=key)
    assert_close(net.eval()(case.inputs["x"]), case.outputs["bn.eval_y"])


def test_official_size() -> None:
    case = load_case("formula_discriminator")
    net = patch_discriminator()
    assert sum(p.numel() for p in net.parameters()) == case.config["parameters"]
    formula_weights(net, case.config["seed"])
    assert_close(net.train()(case.inputs["x"]), case.outputs["train_y"])
    assert_close(net.eval()(case.inputs["x"]), case.outputs["eval_y"])


def test_keys_are_the_published_ones() -> None:
    published = official_keys("models__first_stage_models__kl-f8")["state_dict"]
    prefix = "loss.discriminator."
    want = [(k.removeprefix(prefix), s) for k, s, _ in published if k.startswith(prefix)]
    got = [(k, list(v.shape)) for k, v in patch_discriminator().state_dict().items()]
    assert got == want


def test_initialisation() -> None:
    net = patch_discriminator()
    kernel, scale = net.main[2].weight, net.main[3].weight
    assert abs(kernel.std().item() - 0.02) < 0.001
    assert abs(kernel.mean().item()) < 0.001
    assert abs(scale.mean().item() - 1) < 0.01
    assert net.main[3].bias.abs().max() == 0


def test_group_norm_stands_where_batch_norm_stood() -> None:
    batch, group = (seeded(norm=norm) for norm in ("batch", "group"))
    assert [type(m).__name__ for m in group.modules()].count("GroupNorm") == 3
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in group.modules())
    weights = dict(batch.named_parameters())
    assert weights.keys() == group.state_dict().keys()
    for key, value in group.named_parameters():
        assert torch.equal(value, weights[key]), key


def seeded(**options) -> torch.nn.Module:
    torch.manual_seed(0)
    return patch_discriminator(**options)


@pytest.mark.parametrize(("width", "groups"), [(4, [2, 4, 8]), (6, [3, 6, 12]), (64, [32] * 3)])
def test_groups_divide_any_width(width: int, groups: list[int]) -> None:
    net = patch_discriminator(width=width, norm="group")
    assert [m.num_groups for m in net.modules() if isinstance(m, torch.nn.GroupNorm)] == groups


def test_with_group_norm_an_image_does_not_depend_on_its_batch() -> None:
    net = seeded(width=8, norm="group").train()
    x = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(net(x)[:1], net(x[:1]))
    assert net(x[:1]).isfinite().all()
    mixed = seeded(width=8).train()
    assert not torch.allclose(mixed(x)[:1], mixed(x[:1]), rtol=0.01)


def test_unknown_norm() -> None:
    with pytest.raises(ConfigError, match="unknown norm 'layer'"):
        patch_discriminator(norm="layer")
