from __future__ import annotations

import torch

from ldm.losses.discriminator import patch_discriminator
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
