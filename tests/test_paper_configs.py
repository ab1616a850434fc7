"""The stage-2 models of the paper: sizes, settings and weights are the published ones."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from ldm.config import instantiate, load_config
from ldm.denoisers.unet import UNet
from ldm.errors import ConfigError
from ldm.layers.attention import AttentionBlock, CrossAttention
from tests.experiments import CONFIGS, PAPER, make_world, name_of
from tests.parity import official_keys, published_configs

# Millions of parameters of UNet and conditioners, as counted; batch, learning rate and steps of
# Tables 12 to 15, unless the file says that they are choices; loss, first and last beta of the
# released configs; channels of the latent; first stage.
TABLE = """
unconditional/celebahq-ldm-4       274.06      -   48  9.6e-5  410000 l2 .0015 .0195  3 vq-f4
unconditional/ffhq-ldm-4           274.06      -   42  8.4e-5  635000 l2 .0015 .0195  3 vq-f4
unconditional/lsun-churches-ldm-8  294.97      -   96    5e-5  500000 l1 .0015 .0155  4 kl-f8
unconditional/lsun-bedrooms-ldm-4  274.06      -   48  9.6e-5 1900000 l2 .0015 .0195  3 vq-f4
sweep/imagenet-ldm-1               396.84   0.51    7  4.9e-5 2000000 l2 .0015 .0195  3 -
sweep/imagenet-ldm-2               390.89   0.51    9  6.3e-5 2000000 l2 .0015 .0195  2 vq-f2
sweep/imagenet-ldm-4               400.92   0.51   40    8e-5 2000000 l2 .0015 .0195  3 vq-f4
sweep/imagenet-ldm-8               394.98   0.51   64  6.4e-5 2000000 l2 .0015 .0195  4 vq-f8
sweep/imagenet-ldm-16              395.00   0.51  112  4.5e-5 2000000 l2 .0015 .0195  8 vq-f16
sweep/imagenet-ldm-32              395.11   0.51  112  4.5e-5 2000000 l2 .0015 .0195 32 vq-f32-c32
sweep/celebahq-ldm-1               270.46      -    9    9e-5  500000 l2 .0015 .0195  3 -
sweep/celebahq-ldm-2               264.51      -   11  1.1e-4  500000 l2 .0015 .0195  2 vq-f2
sweep/celebahq-ldm-4               274.06      -   48  9.6e-5  500000 l2 .0015 .0195  3 vq-f4
sweep/celebahq-ldm-8               257.73      -   96  9.6e-5  500000 l2 .0015 .0195  4 vq-f8
sweep/celebahq-ldm-16              257.75      -  128  1.3e-4  500000 l2 .0015 .0195  8 vq-f16
sweep/celebahq-ldm-32              257.86      -  128  1.3e-4  500000 l2 .0015 .0195 32 vq-f32-c32
class/cin256                       394.98   0.51   64  6.4e-5 4800000 l2 .0015 .0195  4 vq-f8
class/cin256-v2                    400.92   0.51 1200    1e-4  178000 l2 .0015 .0195  3 vq-f4
text/laion-ldm-8                   872.30 581.99  680    1e-4  390000 l2 .00085 .012   4 kl-f8
text/text2img256                   403.62 186.15   28  5.6e-5  390000 l2 .0015 .0195  3 vq-f4
text/clip-ldm-8                    859.52 123.06  680    1e-4  390000 l2 .00085 .012   4 kl-f8
layout/openimages-ldm-4            246.28  58.86   24  4.8e-5 4400000 l1 .0015 .0205  3 vq-f4
layout/coco-ldm-8                  312.24  33.65   48  4.8e-5  170000 l1 .0015 .0205  4 vq-f8
super_resolution/imagenet-ldm-4    113.62      -   64  6.4e-5  860000 l2 .0015 .0155  3 vq-f4
super_resolution/bsr               113.62      -   64  6.4e-5  860000 l2 .0015 .0155  3 vq-f4
inpainting/places-ldm-1            215.23      -  128 1.28e-4  360000 l1 .0015 .0205  3 -
inpainting/places-ldm-4-kl         215.23      -  128 1.28e-4  360000 l1 .0015 .0205  3 kl-f4
inpainting/places-ldm-4-vq         215.23      -  128 1.28e-4  360000 l1 .0015 .0205  3 vq-f4
inpainting/places-ldm-4-vq-noattn  215.23      -  128 1.28e-4  360000 l1 .0015 .0205  3 vq-f4-noattn
inpainting/places-big              387.25      -  128 1.28e-4  360000 l1 .0015 .0205  3 vq-f4-noattn
semantic/landscapes-256            215.23   0.00   48  4.8e-5  360000 l1 .0015 .0205  3 vq-f4
semantic/landscapes-512            215.23   0.00    8    8e-6  360000 l1 .0015 .0205  3 vq-f4
retrieval/rdm-768                  1335.48      -   96    1e-4  100000 l2 .0015 .015  16 kl-f16
"""
Row = tuple[str, str, int, float, int, str, float, float, int, str]


def _row(line: str) -> tuple[str, Row]:
    name, unet, tau, batch, rate, steps, loss, start, end, channels, stage = line.split()
    numbers = (int(batch), float(rate), int(steps))
    return name, (unet, tau, *numbers, loss, float(start), float(end), int(channels), stage)


ROWS = dict(_row(line) for line in TABLE.strip().splitlines())
# fmt: off
RELEASED = {
    "unconditional/celebahq-ldm-4": "celeba256", "unconditional/ffhq-ldm-4": "ffhq256",
    "unconditional/lsun-churches-ldm-8": "lsun_churches256",
    "unconditional/lsun-bedrooms-ldm-4": "lsun_beds256", "class/cin256": "cin256",
    "class/cin256-v2": "cin256-v2", "text/laion-ldm-8": "txt2img-1p4B-eval",
    "text/text2img256": "text2img256", "layout/openimages-ldm-4": "layout2img-openimages256",
    "super_resolution/bsr": "bsr_sr", "inpainting/places-big": "inpainting_big",
    "semantic/landscapes-256": "semantic_synthesis256",
    "semantic/landscapes-512": "semantic_synthesis512", "retrieval/rdm-768": "768x768",
}
# fmt: on
ONE_HEAD = {"class/cin256", "text/text2img256", "layout/openimages-ldm-4"}
"""Their released configs name heads of 32 channels; the weights were trained with one."""
RATE_AS_IT_IS = {"lsun_churches256", "cin256-v2", "txt2img-1p4B-eval", "768x768"}
DOCS = CONFIGS.parent / "docs" / "configs.md"


def config_of(name: str, *overrides: str) -> DictConfig:
    path = CONFIGS / f"{name}.yaml"
    return load_config(path, overrides=list(overrides), complete=False)


def node(config: DictConfig, key: str) -> Any:
    with torch.device("meta"):
        return instantiate(config.model.params[key], key)


@functools.lru_cache(maxsize=4)
def parts(name: str) -> tuple[Any, Any]:
    """Denoiser and conditioners of a config, on the meta device."""
    config = config_of(name)
    conditioners = node(config, "conditioners") if "conditioners" in config.model.params else []
    return node(config, "denoiser"), conditioners


def millions(*modules: torch.nn.Module) -> float:
    return sum(p.numel() for module in modules for p in module.parameters()) / 1e6


def published(release: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The key list and the YAML of a released model."""
    groups = ("models__ldm", "configs__latent-diffusion", "configs__retrieval-augmented-diffusion")
    for group in groups:
        try:
            keys = official_keys(f"{group}__{release}")
        except FileNotFoundError:
            continue
        return keys, published_configs()[keys["config"]]
    raise AssertionError(release)


def row(name: str) -> str:
    """The values of a config as a row of docs/configs.md, without what is said in words."""
    config = config_of(name)
    params, (denoiser, conditioners) = config.model.params, parts(name)
    schedule = params.schedule.params
    tau = millions(*conditioners)
    stage = Path(config.first_stage).name if "path" in params.autoencoder.params else "none"
    drop = max((c.drop_prob for c in conditioners), default=0)
    mantissa, exponent = f"{config.learning_rate:.2e}".split("e")
    cells = [
        f"[{name}](../configs/{name}.yaml)",
        f"{millions(denoiser):.2f}" + (f" + {tau:.2f}" if tau >= 0.01 else ""),
        stage,
        f"{config.data.params.batch_size}",
        f"{float(mantissa):g}e{int(exponent)}",
        f"{config.trainer.max_steps:,}",
        params.loss,
        f"{schedule.start:g} to {schedule.end:g}",
        f"{drop:g}",
    ]
    return "| " + " | ".join(cells) + " |"


def test_every_model_has_a_row() -> None:
    assert set(ROWS) == {name_of(path) for path in PAPER}


@pytest.mark.parametrize("name", ROWS)
def test_settings(name: str) -> None:
    unet, tau, batch, rate, steps, loss, start, end, channels, stage = ROWS[name]
    config, (denoiser, conditioners) = config_of(name), parts(name)
    assert f"{millions(denoiser):.2f}" == unet
    assert f"{millions(*conditioners):.2f}" == ("0.00" if tau == "-" else tau)
    assert config.data.params.batch_size == batch
    assert config.task.params.optimizer.params.lr == pytest.approx(rate, rel=0.02)
    assert config.trainer.max_steps == steps
    assert config.ema_decay == 0.9999
    params = config.model.params
    assert (params.loss, params.schedule.params.start, params.schedule.params.end) == (
        loss,
        start,
        end,
    )
    assert (params.schedule.params.kind, params.schedule.params.timesteps) == ("linear", 1000)
    assert denoiser.out_channels == config.latent_channels == channels
    if stage != "-":
        assert config.first_stage == f"runs/{stage}"
        assert (params.scale_factor == 1) == stage.startswith("vq")
    else:
        assert params.autoencoder.target.endswith("AutoencoderIdentity")
    guided = config.task.params.get("preview_guidance", 1) > 1
    assert [c.drop_prob for c in conditioners] == [0.1 if guided else 0.0] * len(conditioners)


@pytest.mark.parametrize("name", RELEASED)
def test_weights_are_those_of_the_released_checkpoint(name: str) -> None:
    keys, _ = published(RELEASED[name])
    denoiser, conditioners = parts(name)
    got = [f"model.diffusion_model.{key}" for key in denoiser.state_dict()]
    shapes = [list(value.shape) for value in denoiser.state_dict().values()]
    if keys["counts"]["cond_stage_class"] != "VQModelInterface":  # that is lent, not owned
        for conditioner in conditioners:
            got += [f"cond_stage_model.{key}" for key in conditioner.state_dict()]
            shapes += [list(value.shape) for value in conditioner.state_dict().values()]
    want = [
        (key, shape)
        for key, shape, _ in keys["state_dict"]
        if key.startswith(("model.diffusion_model.", "cond_stage_model."))
    ]
    if keys["counts"]["cond_stage_class"] == "VQModelInterface":
        want = [(key, shape) for key, shape in want if key.startswith("model.")]
    assert sorted(zip(got, shapes, strict=True)) == sorted(want)


@pytest.mark.parametrize("name", RELEASED)
def test_settings_are_those_of_the_released_config(name: str) -> None:
    release = RELEASED[name]
    tree = published(release)[1]
    foreign, config = tree["model"]["params"], config_of(name)
    params = config.model.params
    assert params.loss == foreign.get("loss_type", "l2")
    assert params.schedule.params.start == foreign["linear_start"]
    assert params.schedule.params.end == foreign["linear_end"]
    scale = None if foreign.get("scale_by_std") else foreign.get("scale_factor", 1.0)
    assert params.scale_factor == scale
    base, data = tree["model"]["base_learning_rate"], tree.get("data")
    if data is not None:
        assert config.data.params.batch_size == data["params"]["batch_size"]
    if release != "txt2img-1p4B-eval":  # its file is for sampling only; the rate is Table 15's
        factor = 1 if release in RATE_AS_IT_IS else config.data.params.batch_size
        assert config.learning_rate == pytest.approx(base * factor)
    options = dict(foreign["unet_config"]["params"])
    side = options.pop("image_size")
    assert config.image_size == side * int(config.first_stage.split("-")[1].removeprefix("f"))
    with torch.device("meta"):
        original = UNet(**options)
    heads = [
        [layer.num_heads for layer in unet.modules() if hasattr(layer, "num_heads")]
        for unet in (parts(name)[0], original)
    ]
    kinds = (AttentionBlock, CrossAttention)
    assert len(heads[0]) == sum(isinstance(m, kinds) for m in original.modules())
    assert heads[0] == ([1] * len(heads[1]) if name in ONE_HEAD else heads[1])


def test_what_the_comments_say_of_sizes() -> None:
    """PAPER.md section 8, rows 8 and 27: the sizes that were not taken."""
    net = "model.params.denoiser.params"
    plain = config_of(
        "unconditional/lsun-churches-ldm-8",
        f"{net}.use_scale_shift_norm=false",
        f"{net}.resblock_updown=false",
    )
    assert f"{millions(node(plain, 'denoiser')):.2f}" == "256.40"
    deep = config_of("layout/coco-ldm-8", "model.params.conditioners.0.params.depth=16")
    both = [node(deep, "denoiser"), *node(deep, "conditioners")]
    assert f"{millions(*both):.2f}" == "371.10"
    shallow, transformer = parts("layout/coco-ldm-8")
    assert f"{millions(shallow, *transformer):.2f}" == "345.89"


@pytest.mark.parametrize("path", PAPER, ids=name_of)
def test_without_data_the_error_is_one_clear_line(path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    message = str(caught.value)
    assert "\n" not in message
    assert "missing" in message.lower()
    assert "data_root: mandatory value is missing" in message


@pytest.mark.parametrize(
    ("name", "root", "overrides"),
    [
        ("unconditional/celebahq-ldm-4", "photos", []),
        ("unconditional/lsun-bedrooms-ldm-4", "photos", []),
        ("class/cin256-v2", "sets", ["num_classes=1"]),
        ("text/laion-ldm-8", "photos", ["tokenizer.params.vocab=data/scenes/vocab.txt"]),
        ("text/clip-ldm-8", "photos", []),
    ],
)
def test_folders_give_what_the_model_takes(
    name: str, root: str, overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(CONFIGS.parent)
    make_world(tmp_path)
    config = config_of(name, f"data_root={tmp_path / root}", "image_size=32", *overrides)
    data = instantiate(config.data, "data")
    for items in (data.train, data.validation):
        entries = items[0]
        assert entries["image"].shape == (3, 32, 32)
        needed = {"class": "class_label", "text": "tokens"}.get(name.split("/")[0], "image")
        assert needed in entries


def test_the_documentation_has_the_values_of_the_files() -> None:
    text = DOCS.read_text()
    for name in ROWS:
        words = row(name).removesuffix("|")
        assert words in text, f"docs/configs.md lacks: {words}"
