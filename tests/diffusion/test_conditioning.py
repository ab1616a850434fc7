from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ldm.conditioners.class_label import ClassLabel
from ldm.conditioners.embeddings import Embeddings
from ldm.conditioners.spatial import ConcatImage, LatentImage, ResizedMask
from ldm.denoisers.unet import UNet
from ldm.diffusion.conditioning import (
    Conditioning,
    check_batch,
    check_fit,
    drop_values,
    encode_conditions,
    null_batch,
    stack,
)
from ldm.errors import ConfigError, DataError
from tests.diffusion.fakes import FakeDenoiser, FakeLabels, FakeMap
from tests.diffusion.golden import build_model
from tests.parity import assert_close, load_case

BATCH = {"label": torch.tensor([1, 2, 3]), "map": torch.randn(3, 2, 4, 4), "caption": ["a"] * 3}


def test_routes() -> None:
    conditioners = [
        FakeLabels(),
        FakeMap(),
        FakeLabels(),
        FakeMap(),
        FakeLabels("adm"),
    ]
    cond = encode_conditions(conditioners, BATCH)
    assert cond.context is not None
    assert cond.concat is not None
    assert cond.context.shape == (3, 2, 4)
    assert torch.equal(cond.context[:, 1:], conditioners[2](BATCH["label"]))
    assert cond.concat.shape == (3, 4, 4, 4)
    assert torch.equal(cond.y, BATCH["label"])
    assert encode_conditions([], BATCH) == Conditioning()


def test_dropout_replaces_whole_values_before_encoding() -> None:
    labels = FakeLabels(drop_prob=0.3)
    value = torch.zeros(20000, dtype=torch.int64)
    dropped = drop_values(labels, value, torch.Generator().manual_seed(0))
    assert set(dropped.tolist()) == {0, 9}
    assert (dropped == 9).float().mean().item() == pytest.approx(0.3, abs=0.015)
    maps = drop_values(FakeMap(0.5), torch.ones(200, 2, 3, 3), torch.Generator().manual_seed(0))
    per_sample = maps.flatten(1).mean(1)
    assert set(per_sample.tolist()) == {0.0, 1.0}


def test_dropout_is_seeded_and_independent_for_each_conditioner() -> None:
    value = torch.zeros(400, dtype=torch.int64)
    pair = [FakeLabels("crossattn", 0.5, "a"), FakeLabels("adm", 0.5, "b")]

    def dropped(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        cond = encode_conditions(pair, {"a": value, "b": value}, True, generator)
        return cond.context[:, 0, 0] != pair[0].embedding.weight[0, 0], cond.y == 9

    a, b = dropped(0)
    again = dropped(0)
    assert torch.equal(a, again[0])
    assert torch.equal(b, again[1])
    assert not torch.equal(a, dropped(1)[0])
    assert (a & b).float().mean().item() == pytest.approx(0.25, abs=0.08)


def test_no_dropout_outside_training_or_at_probability_0() -> None:
    value = torch.zeros(50, dtype=torch.int64)
    for drop, probability in ((False, 0.9), (True, 0.0)):
        cond = encode_conditions([FakeLabels("adm", probability)], {"label": value}, drop)
        assert torch.equal(cond.y, value)


def test_null_batch_keeps_maps_that_were_never_dropped() -> None:
    entries = null_batch([FakeLabels(), FakeMap()], BATCH)
    assert entries["label"].tolist() == [9, 9, 9]
    assert entries["map"] is BATCH["map"]
    assert null_batch([FakeMap(0.1)], BATCH)["map"].abs().max() == 0


def test_stack() -> None:
    a = Conditioning(context=torch.zeros(2, 3, 4), y=torch.zeros(2))
    b = Conditioning(context=torch.ones(2, 3, 4), y=torch.ones(2))
    both = stack(a, b)
    assert both.context.flatten(1).mean(1).tolist() == [0, 0, 1, 1]
    assert both.y.tolist() == [0, 0, 1, 1]
    assert both.concat is None
    with pytest.raises(ValueError, match=r"context is \(2, 3, 4\) and None"):
        stack(a, Conditioning(y=torch.ones(2)))
    with pytest.raises(ValueError, match=r"\(2, 3, 4\) and \(2, 1, 4\)"):
        stack(a, Conditioning(context=torch.ones(2, 1, 4), y=torch.ones(2)))


def test_errors_name_the_entry() -> None:
    with pytest.raises(DataError, match="'label', but the batch has only: image, map"):
        encode_conditions([FakeLabels()], {"image": 0, "map": 0})
    with pytest.raises(DataError, match="'caption' must be a tensor for FakeLabels, got list"):
        encode_conditions([FakeLabels(key="caption")], BATCH)
    with pytest.raises(ValueError, match="at most one"):
        encode_conditions([FakeLabels("adm"), FakeLabels("adm")], BATCH)


# -- conditions that do not fit together ------------------------------------------------------


def test_conditions_of_different_sizes_are_named() -> None:
    pair = [FakeMap(key="masked_image"), FakeMap(key="mask")]
    maps = {"masked_image": torch.zeros(2, 3, 4, 4), "mask": torch.zeros(2, 1, 4, 2)}
    message = (
        r"^conditions 'masked_image' and 'mask' do not fit together: encoded, they are "
        r"\(2, 3, 4, 4\) and \(2, 1, 4, 2\)$"
    )
    with pytest.raises(DataError, match=message):
        encode_conditions(pair, maps)
    with pytest.raises(DataError, match="do not fit together"):
        encode_conditions(pair, {**maps, "mask": torch.zeros(3, 1, 4, 4)})
    vectors = [Embeddings(4, key="a"), Embeddings(5, key="b")]
    with pytest.raises(DataError, match=r"'a' and 'b' .* \(2, 1, 4\) and \(2, 3, 5\)"):
        encode_conditions(vectors, {"a": torch.zeros(2, 4), "b": torch.zeros(2, 3, 5)})


def test_a_batch_is_checked_before_it_is_moved() -> None:
    parts = [ClassLabel(10, 4), FakeMap()]
    check_batch(parts, {"class_label": torch.tensor([9]), "map": torch.zeros(1)})
    with pytest.raises(DataError, match="class id 10 is outside 0 to 9"):
        check_batch(parts, {"class_label": torch.tensor([10]), "map": torch.zeros(1)})
    with pytest.raises(DataError, match="needs the batch entry 'map'"):
        check_batch(parts, {"class_label": torch.tensor([9])})


def unet(**options: int | bool) -> UNet:
    sizes = {"in_channels": 3, "out_channels": 3, "model_channels": 32, "num_heads": 2}
    with torch.device("meta"):
        return UNet(**sizes, channel_mult=[1], attention_resolutions=[], **options)


def test_a_wrong_context_width_is_named() -> None:
    attending = unet(use_spatial_transformer=True, context_dim=12)
    check_fit([ClassLabel(10, 12), Embeddings(12)], attending, 3)
    message = (
        r"^Embeddings \('neighbours'\) gives vectors of width 8, but the denoiser has "
        "context_dim=12$"
    )
    with pytest.raises(ConfigError, match=message):
        check_fit([ClassLabel(10, 12), Embeddings(8)], attending, 3)
    with pytest.raises(ConfigError, match="width 12, but the denoiser takes no context"):
        check_fit([ClassLabel(10, 12)], unet(), 3)
    check_fit([ClassLabel(10, route="adm"), FakeLabels(), FakeMap()], unet(), 3)


def test_a_wrong_number_of_channels_is_named() -> None:
    inpainting = [LatentImage(), ResizedMask()]
    check_fit(inpainting, FakeDenoiser(), 3)  # tells nothing of its channels
    with pytest.raises(ConfigError) as error:
        check_fit(inpainting, unet(), 3)
    assert str(error.value) == (
        "the denoiser has in_channels=3, but gets 3 of the latent + 3 of LatentImage "
        "('masked_image') + 1 of ResizedMask ('mask')"
    )
    with pytest.raises(ConfigError, match="4 of ConcatImage"):
        check_fit([ConcatImage(4)], unet(), 3)


# -- against the original ---------------------------------------------------------------------


@torch.no_grad()
def test_hybrid_golden() -> None:
    """A map beside the latent and two sequences joined, as with conditioning_key hybrid."""
    case = load_case("unet_hybrid_xattn_legacy")
    model = UNet(**{k: v for k, v in case.config["unet"].items() if k != "image_size"}).eval()
    model.load_state_dict({k.removeprefix("diffusion_model."): v for k, v in case.weights.items()})
    parts = [
        Embeddings(24, key="c_crossattn.0"),
        ConcatImage(2, key="c_concat.0"),
        Embeddings(24, key="c_crossattn.1"),
    ]
    check_fit(parts, model, 3)
    cond = encode_conditions(parts, case.inputs)
    assert cond.concat is not None
    y = model(torch.cat([case.inputs["x"], cond.concat], 1), case.inputs["t"], cond.context)
    assert_close(y, case.outputs["y"])


def test_joint_training_golden() -> None:
    """The loss reaches the conditioners: a row of a table gets the gradient of its token."""
    case = load_case("ldm_crossattn_samplers")
    model = build_model(case, case.config["diffusion"])
    tokens = case.inputs["cond"]  # (2, 3, 10)
    parts = [ClassLabel(len(tokens), tokens.shape[2], key=str(i)) for i in range(3)]
    for i, part in enumerate(parts):
        part.embedding.weight.data = tokens[:, i].clone()
    model.conditioners = torch.nn.ModuleList(parts)
    cond = model.condition({str(i): torch.tensor([0, 1]) for i in range(3)})
    loss, _ = model.training_loss(
        case.inputs["loss.x0"], cond, case.inputs["loss.t"], case.inputs["loss.noise"]
    )
    assert_close(loss, case.outputs["loss.loss"])
    optimizer = torch.optim.SGD(model.conditioners.parameters(), lr=1.0)
    loss.backward()
    want = case.outputs["loss.grad_cond"]
    assert_close(torch.stack([part.embedding.weight.grad for part in parts], 1), want)
    optimizer.step()
    moved = torch.stack([part.embedding.weight for part in parts], 1)
    assert_close(moved, tokens - want)


def test_a_denoiser_for_other_latents_is_refused() -> None:
    denoiser = SimpleNamespace(in_channels=3)
    check_fit([], denoiser, 3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"in_channels=3, but gets 4 of the latent$"):
        check_fit([], denoiser, 4)  # type: ignore[arg-type]
