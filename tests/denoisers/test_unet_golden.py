"""The UNet against outputs of the original code, with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldm.denoisers.unet import UNet
from tests.parity import Case, assert_close, formula_weights, load_case

STORED = [
    "unet_class_adm",
    "unet_concat",
    "unet_hybrid_xattn_legacy",
    "unet_legacy_heads",
    "unet_neworder_updown_ssn",
    "unet_xattn_nolegacy_depth3",
]
FORMULA = [
    "formula_unet_official",
    "formula_unet_options",
    "formula_unet_plain",
    "formula_unet_updown",
    "formula_unet_xattn",
    "formula_unet_xattn2",
]


def build(case: Case) -> UNet:
    options = dict(case.config.get("unet", case.config))
    del options["image_size"]
    return UNet(**options).eval()


def arguments(case: Case, x: Tensor) -> dict[str, Any]:
    inputs = case.inputs
    parts = [inputs[k] for k in sorted(inputs) if k.startswith("c_concat.")]
    context = [inputs[k] for k in sorted(inputs) if k.startswith("c_crossattn.")]
    return {
        "x": torch.cat([x, *parts], dim=1),
        "t": inputs["t"],
        "context": torch.cat(context, dim=1) if context else inputs.get("context"),
        "y": inputs.get("y"),
    }


def record(module: nn.Module, into: dict[str, Tensor], name: str) -> None:
    module.register_forward_hook(lambda module, args, output: into.update({name: output}))


@pytest.mark.parametrize("name", STORED)
def test_stored_weights(name: str) -> None:
    case = load_case(name)
    model = build(case)
    weights = {k.removeprefix("diffusion_model."): v for k, v in case.weights.items()}
    model.load_state_dict({k: v for k, v in weights.items() if "id_predictor" not in k})
    seen: dict[str, Tensor] = {}
    record(model.time_embed, seen, "time_embed")
    record(model.input_blocks[-1], seen, "last_input_block")
    record(model.middle_block, seen, "middle")

    x = case.inputs["x"].requires_grad_()
    y = model(**arguments(case, x))
    (y * case.inputs["cotangent"]).sum().backward()
    assert_close(y, case.outputs["y"], what="y")
    assert_close(x.grad, case.outputs["grad_x"], what="grad_x")
    for key, value in seen.items():
        assert_close(value, case.outputs[key], what=key)
    with torch.no_grad():
        small = model(**arguments(case, case.inputs["x_small"]))
    assert_close(small, case.outputs["y_small"], what="y_small")


@pytest.mark.parametrize("name", FORMULA)
@torch.no_grad()
def test_official_topologies(name: str) -> None:
    case = load_case(name)
    model = build(case)
    assert sum(p.numel() for p in model.parameters()) == case.config["parameters"]
    formula_weights(model, case.config["seed"])
    seen: dict[str, Tensor] = {}
    blocks = [*model.input_blocks, model.middle_block, *model.output_blocks]
    for i, block in enumerate(blocks):
        record(block, seen, str(i))

    assert_close(model(**arguments(case, case.inputs["x"])), case.outputs["y"], what="y")
    stats = [
        torch.stack([h.mean(), h.std(), h.flatten()[0], h.flatten()[-1]]) for h in seen.values()
    ]
    for i, (got, want) in enumerate(zip(stats, case.outputs["stats"], strict=True)):
        assert_close(got, want, what=f"statistics of block {i}")
    small = model(**arguments(case, case.inputs["x_small"]))
    assert_close(small, case.outputs["y_small"], what="y_small")
