"""evaluate_autoencoder.py as a user types it: what it writes, and one clear line for bad input."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor

from ldm.config import instantiate, save_config
from ldm.data.folder import ImageFolder
from ldm.evaluation.latent_statistics import draw, kl_map
from ldm.evaluation.metrics.fid import FeatureStatistics, frechet_distance
from ldm.evaluation.metrics.inception_score import InceptionScore
from ldm.evaluation.metrics.reconstruction import psnr, resampled, ssim
from ldm.evaluation.networks.inception import WEIGHTS_FILE
from ldm.evaluation.networks.resizing import tf1_bilinear
from ldm.export import export
from ldm.load.model import load_model
from ldm.losses.perceptual import LPIPS
from ldm.training.run import train
from ldm.training.run_folder import RunFolder
from tests.scripts.conftest import Outcome
from tests.training import tiny

Script = Callable[..., Outcome]
NAME = "evaluate_autoencoder.py"
VOCAB = Path(__file__).parents[2] / "data" / "scenes" / "vocab.txt"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained KL and feature networks, and a diffusion model."""
    root = tmp_path_factory.mktemp("runs")
    train(tiny.autoencoder(), RunFolder(root / "kl"))
    train(tiny.features(), RunFolder(root / "features"))
    train(tiny.text2img(root / "kl", VOCAB), RunFolder(root / "text"))
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirteen pictures of various sizes, in two folders."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for k in range(13):
        coarse = rng.integers(0, 256, (5, 4 + k % 3, 3)).astype(np.uint8)
        picture = Image.fromarray(coarse).resize((40 + k, 50 - k), Image.Resampling.BICUBIC)
        folder = root / ("a" if k < 6 else "b")
        folder.mkdir(exist_ok=True)
        picture.save(folder / f"{k}.png")
    return root


@pytest.fixture(scope="module")
def vq(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hand-made checkpoint of an untrained VQ autoencoder, and its config."""
    folder = tmp_path_factory.mktemp("vq")
    config = tiny.vq_autoencoder()
    torch.manual_seed(0)
    model = instantiate(config.model)
    torch.nn.init.normal_(model.quantize.embedding.weight)
    torch.save({"state_dict": model.state_dict()}, folder / "model.ckpt")
    save_config(OmegaConf.create({"model": config.model}), folder / "vq.yaml")
    return folder


@pytest.fixture
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PyTorch's folder of downloaded weights, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The report, and its measurements by name."""
    report = json.loads((folder / "metrics.json").read_text())
    return report, {m["name"]: m for m in report["measurements"]}


def assert_one_line(outcome: Outcome, *parts: str) -> None:
    assert outcome.code == 2, outcome.out + outcome.err
    lines = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in outcome.err
    for part in parts:
        assert part in lines[0], f"{part!r} is not in {lines[0]!r}"


def images(root: Path, size: int) -> Tensor:
    dataset = ImageFolder(root, size, split="all", captions="none", classes="none")
    return torch.stack([dataset[k]["image"] for k in range(len(dataset))])


def model_of(config: DictConfig, weights: dict[str, Tensor]) -> Any:
    model = instantiate(config.model)
    model.load_state_dict(weights)
    return model.eval()


# -- what it measures ------------------------------------------------------------------------


def test_a_run_on_its_own_validation_images(script: Script, runs: Path) -> None:
    outcome = script(NAME, runs / "kl")
    assert outcome.code == 0, outcome.err
    report, found = read(runs / "kl")
    assert set(found) == {
        "psnr", "resampled_psnr", "ssim", "saturated", "latent_mean", "latent_std", "latent_min",
        "latent_max", "kl_per_dimension", "scale_factor",
    }  # fmt: skip
    for measurement in found.values():
        assert measurement["num_real"] == 4
        assert measurement["resolution"] == [16, 16]
        assert measurement["data"] == f"validation data of {runs / 'kl'} (SceneDataset)"
        assert measurement["preprocessing"] == "as the data set gives them"
    assert found["scale_factor"]["value"] * found["latent_std"]["value"] == pytest.approx(1)
    assert len(found["kl_per_dimension"]["per_channel"]) == 2
    assert report["subject"]["checkpoint"].endswith("last.ckpt")
    assert report["subject"]["ema"] is True
    assert report["readiness"]["verdict"] == "not ready"  # after four steps
    assert "only 4 images were measured" in report["readiness"]["reasons"][-1]
    assert any("--lpips" in remark for remark in report["remarks"])
    assert "verdict: not ready" in outcome.out
    sheet = Image.open(runs / "kl" / "reconstructions.png")
    assert sheet.size == (4 * (64 + 2) + 2, 3 * (64 + 2) + 2)


def test_averaged_or_live_weights(script: Script, runs: Path, tmp_path: Path) -> None:
    values = []
    for options in ((), ("--no-ema",), ("--checkpoint", "best", "--no-ema")):
        assert script(NAME, runs / "kl", "--out", tmp_path, *options).code == 0
        values.append(read(tmp_path)[1]["psnr"]["value"])
    assert values[0] != values[1]


def test_numbers_do_not_depend_on_the_batch_size(
    script: Script, runs: Path, photos: Path, tmp_path: Path
) -> None:
    reports = []
    for size in (1, 7):
        outcome = script(
            NAME, runs / "kl", "--data", photos, "--size", 32, "--batch-size", size,
            "--features", runs / "features", "--out", tmp_path / str(size),
        )  # fmt: skip
        assert outcome.code == 0, outcome.err
        reports.append(read(tmp_path / str(size))[0])
    one, seven = reports
    assert one["readiness"] == seven["readiness"]
    for a, b in zip(one.pop("measurements"), seven.pop("measurements"), strict=True):
        for key in ("value", "std", "per_channel"):
            x, y = a.pop(key), b.pop(key)
            assert x == (y if x is None else pytest.approx(y, rel=1e-4)), (a["name"], key)
        assert a == b
        assert a["num_real"] == 13
        assert a["preprocessing"] == (
            "shorter side to 32 (bicubic), center crop 32x32, JPEGs from 128 pixels on decoded at "
            "a fraction of that"
        )
        assert a["data"] == f"--data {photos} (ImageFolder)"
    assert one == seven


@torch.no_grad()
def test_every_number_of_a_kl_stage_in_the_original_format(
    script: Script, photos: Path, tmp_path: Path
) -> None:
    """Against all images at once, by the functions that have oracles of their own."""
    ddconfig = {
        "double_z": True, "z_channels": 4, "resolution": 32, "in_channels": 3, "out_ch": 3,
        "ch": 32, "ch_mult": [1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
    }  # fmt: skip
    params = {
        "embed_dim": 3,
        "monitor": "val/rec_loss",
        "ddconfig": ddconfig,
        "lossconfig": {"target": "torch.nn.Identity"},
    }
    tree = {"model": {"target": "ldm.models.autoencoder.AutoencoderKL", "params": params}}
    absent = {"data_root": "???"}  # a training config may name no data yet
    OmegaConf.save(OmegaConf.create(tree | absent), tmp_path / "kl.yaml")
    torch.manual_seed(0)
    model = instantiate(OmegaConf.create(tree).model).eval()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "kl.ckpt")
    outcome = script(
        NAME, tmp_path / "kl.ckpt", "--config", tmp_path / "kl.yaml", "--data", photos,
        "--size", 32, "--batch-size", 5, "--out", tmp_path / "out",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    _, found = read(tmp_path / "out")
    x = images(photos, 32)
    posterior = model.encode(x)
    y = model.decode(posterior.mode()).clamp(-1, 1)
    z, kl = draw(posterior, range(13)), kl_map(posterior)
    assert kl is not None
    for name, want in (
        ("psnr", psnr(x, y)),
        ("ssim", ssim(x, y)),
        ("resampled_psnr", psnr(x, resampled(x, 4))),
    ):
        assert found[name]["value"] == pytest.approx(float(want.mean()), rel=1e-4)
        assert found[name]["std"] == pytest.approx(float(want.std()), rel=1e-3)
    for name, value, channels in (
        ("latent_mean", z.mean(), z.mean((0, 2, 3))),
        ("latent_std", z.std(), z.transpose(0, 1).flatten(1).std(1)),
        ("latent_max", z.max(), z.amax((0, 2, 3))),
        ("kl_per_dimension", kl.mean(), kl.mean((0, 2, 3))),
        ("scale_factor", 1 / z.std(), None),
    ):
        assert found[name]["value"] == pytest.approx(float(value), rel=1e-4, abs=1e-6)
        if channels is not None:
            want = pytest.approx(channels.tolist(), rel=1e-4, abs=1e-6)
            assert found[name]["per_channel"] == want


@torch.no_grad()
def test_a_vq_checkpoint_with_its_codes(
    script: Script, vq: Path, photos: Path, tmp_path: Path
) -> None:
    outcome = script(
        NAME, vq / "model.ckpt", "--config", vq / "vq.yaml", "--data", photos, "--size", 16,
        "--num", 12, "--batch-size", 5, "--out", tmp_path,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    _, found = read(tmp_path)
    weights = torch.load(vq / "model.ckpt")["state_dict"]
    model = model_of(tiny.vq_autoencoder(), weights)
    x = images(photos, 16)[:12]
    z = model.encode(x).mode()
    counts = model.quantize.nearest(z).flatten().bincount(minlength=16)
    share = counts.double() / counts.sum()
    assert found["codes_used"]["value"] == int((counts > 0).sum())
    assert found["codes_used"]["note"].endswith(f"by {12 * 64} latents")
    want = float(torch.exp(torch.special.entr(share).sum()))
    assert found["perplexity"]["value"] == pytest.approx(want, rel=1e-4)
    assert found["latent_std"]["value"] == pytest.approx(float(z.std()), rel=1e-4)
    assert found["latent_std"]["note"].endswith("before quantisation")
    assert "kl_per_dimension" not in found
    want = float(psnr(x, model.decode(z)).mean())
    assert found["psnr"]["value"] == pytest.approx(want, rel=1e-4)


def test_a_folder_of_diffusers(
    script: Script, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    config = tiny.autoencoder()
    model = instantiate(config.model).eval()
    export(model, config, tmp_path / "vae", "diffusers", 0.5, torch.float32)
    monkeypatch.chdir(tmp_path)
    outcome = script(NAME, "vae", "--data", photos, "--size", 16)
    assert outcome.code == 0, outcome.err
    report, found = read(tmp_path / "evaluation-vae")
    assert found["psnr"]["num_real"] == 13
    scaled = found["latent_std"]["value"] * 0.5
    mentioned = any("scaled by 0.5" in reason for reason in report["readiness"]["reasons"])
    assert mentioned == (not 0.5 <= scaled <= 2)


def test_data_of_a_yaml_with_overrides(script: Script, runs: Path, tmp_path: Path) -> None:
    scenes = {
        "target": "ldm.data.SceneDataset",
        "params": {"resolution": "${side}", "length": 9},
    }
    absent = {"target": "ldm.data.ImageFolder", "params": {"root": "absent", "size": 16}}
    module = {
        "target": "ldm.training.DataModule",
        "params": {"batch_size": 2, "train": absent, "validation": scenes},
    }
    OmegaConf.save(OmegaConf.create({"side": 16, "data": module}), tmp_path / "data.yaml")
    outcome = script(
        NAME, runs / "kl", "--data", tmp_path / "data.yaml", "side=24", "--out", tmp_path / "out"
    )
    assert outcome.code == 0, outcome.err
    _, found = read(tmp_path / "out")
    assert (found["psnr"]["num_real"], found["psnr"]["resolution"]) == (9, [24, 24])


# -- LPIPS and Inception, with made-up weights -----------------------------------------------


class RandomInception(torch.nn.Module):
    """In place of torch-fidelity's network: its parts by name, of which two do something."""

    def __init__(self, name: str, features: list[str], feature_extractor_weights_path: str) -> None:
        super().__init__()
        assert Path(feature_extractor_weights_path).is_file()
        generator = torch.Generator().manual_seed(0)
        self.projection = torch.nn.Parameter(torch.randn(48, 2048, generator=generator))
        self.fc = torch.nn.Linear(2048, 1008)
        torch.nn.init.normal_(self.fc.weight, std=0.02, generator=generator)
        self.Conv2d_1a_3x3 = torch.nn.AdaptiveAvgPool2d(4)
        self.requires_grad_(False)

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("Conv2d", "MaxPool", "Mixed")) and name != "Conv2d_1a_3x3":
            return torch.nn.Identity()
        return super().__getattr__(name)

    def AvgPool(self, x: Tensor) -> Tensor:  # noqa: N802 - its name there
        return x.flatten(1) @ self.projection

    def of_pixels(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Features and logits of uint8 images."""
        resized = tf1_bilinear(pixels.float(), (299, 299))
        features = self.AvgPool(self.Conv2d_1a_3x3((resized - 128) / 128))
        return features, features @ self.fc.weight.T


@pytest.fixture
def inception(no_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights file in PyTorch's cache, and a network that takes any."""
    name = "torch_fidelity.feature_extractor_inceptionv3"
    module = ModuleType(name)
    module.FeatureExtractorInceptionV3 = RandomInception  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, name, module)
    no_cache.mkdir(parents=True)
    torch.save({}, no_cache / WEIGHTS_FILE)
    return no_cache / WEIGHTS_FILE


@pytest.fixture
def perceptual(monkeypatch: pytest.MonkeyPatch) -> LPIPS:
    torch.manual_seed(0)
    network = LPIPS(widths=(2, 2, 2, 2, 2)).eval()
    for parameter in network.parameters():
        torch.nn.init.uniform_(parameter)
    monkeypatch.setattr("ldm.programs.evaluation.evaluate_autoencoder.lpips", lambda *_: network)
    return network


@torch.no_grad()
def test_rfid_ris_and_lpips(
    script: Script,
    runs: Path,
    photos: Path,
    tmp_path: Path,
    inception: Path,
    perceptual: LPIPS,
) -> None:
    outcome = script(
        NAME, runs / "kl", "--data", photos, "--size", 16, "--batch-size", 4, "--no-ema",
        "--out", tmp_path, "--lpips", "--features", "inception",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    report, found = read(tmp_path)
    assert report["remarks"] == []
    model: Any = load_model(runs / "kl", ema=False)
    x = images(photos, 16)
    y = model.decode(model.encode(x).mode()).clamp(-1, 1)
    network = RandomInception("", ["2048", "logits_unbiased"], str(inception))
    bytes_ = (((v + 1) * 127.5).round().to(torch.uint8) for v in (x, y))
    (real, _), (fake, logits) = map(network.of_pixels, bytes_)
    want = frechet_distance(*(FeatureStatistics(2048).update(v) for v in (real, fake)))
    assert found["rfid"]["value"] == pytest.approx(want, rel=1e-3)
    assert found["rfid"]["features"] == "inception"
    assert "fewer samples than the 2048 features" in found["rfid"]["note"]
    mean, std = InceptionScore(13).update(logits).compute()
    assert found["ris"]["value"] == pytest.approx(mean, rel=1e-3)
    assert found["ris"]["std"] == pytest.approx(std, rel=1e-2)
    assert {"rprecision", "rrecall"} < set(found)
    distances = perceptual(x, y).flatten()
    assert found["lpips"]["value"] == pytest.approx(float(distances.mean()), rel=1e-3)
    assert found["lpips"]["std"] == pytest.approx(float(distances.std()), rel=1e-2)


@torch.no_grad()
def test_other_channels_need_a_choice(script: Script, tmp_path: Path, perceptual: LPIPS) -> None:
    """Five channels from arrays; LPIPS sees the three that were named."""
    config = tiny.autoencoder()
    config.model.params.architecture.params.in_channels = 5
    torch.manual_seed(0)
    model = instantiate(config.model).eval()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "five.ckpt")
    rng = np.random.default_rng(0)
    (tmp_path / "bands").mkdir()
    for k in range(6):
        np.save(tmp_path / "bands" / f"{k}.npy", rng.random((16, 16, 5)).astype(np.float32))
    data = {
        "target": "ldm.data.ArrayFolder",
        "params": {
            "root": str(tmp_path / "bands"), "size": 16, "channels": 5, "value_range": [0, 1],
            "split": "all",
        },
    }  # fmt: skip
    OmegaConf.save(OmegaConf.create({"data": data}), tmp_path / "data.yaml")
    OmegaConf.save(OmegaConf.create({"model": config.model}), tmp_path / "five.yaml")
    checkpoint, yaml = tmp_path / "five.ckpt", tmp_path / "five.yaml"

    def call(*options: str, data: Path = tmp_path / "data.yaml") -> Outcome:
        out = ("--out", tmp_path / "out")
        return script(NAME, checkpoint, "--config", yaml, "--data", data, *out, *options)

    assert_one_line(call("--lpips"), "three channels", "have 5", "--rgb 3,2,1", "repeat")
    assert_one_line(call("--lpips", "--rgb", "3,2,5"), "three channels, the images have 5")
    assert_one_line(call("--lpips", "--rgb", "red"), "--rgb red", "3,2,1")
    assert_one_line(call("--rgb", "3,2,1"), "--rgb goes with")
    assert_one_line(call(data=tmp_path / "bands"), "5 channels", "arrays.yaml")
    outcome = call("--lpips", "--rgb", "3,2,1")
    assert outcome.code == 0, outcome.err
    _, found = read(tmp_path / "out")
    x = torch.stack([instantiate(data)[k]["image"] for k in range(6)])
    y = model.decode(model.encode(x).mode()).clamp(-1, 1)
    want = perceptual(x[:, [3, 2, 1]], y[:, [3, 2, 1]]).mean()
    assert found["lpips"]["value"] == pytest.approx(float(want), rel=1e-3)
    assert "channels [3, 2, 1] as RGB" in found["lpips"]["note"]
    assert Image.open(tmp_path / "out" / "reconstructions.png").mode == "RGB"


# -- wrong input -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("{runs}/nowhere",), ("nowhere", "no such run")),
        (("{runs}/text",), ("LatentDiffusion, not an autoencoder", "scripts/evaluate.py")),
        (("{runs}/features",), ("SceneFeatures, not an autoencoder",)),
        (("{runs}/kl", "--data", "{runs}/absent"), ("absent: no such folder or YAML",)),
        (("{runs}/kl", "--data", "{empty}", "--size", "16"), ("empty", "holds no")),
        (("{runs}/kl", "--data", "{photos}", "--size", "15"), ("--size 15", "multiples of f = 2")),
        (("{runs}/kl", "--data", "{photos}", "--size", "0"), ("0",)),
        (("{runs}/kl", "--data", "{photos}", "side=3"), ("leave out side=3",)),
        (("{runs}/kl", "--size", "16"), ("--size 16 goes with a folder",)),
        (("{runs}/kl", "--num", "5"), ("--num 5", "has 4 images")),
        (("{runs}/kl", "--num", "0"), ("--num 0", "give 1 to 4")),
        (("{runs}/kl", "--batch-size", "0"), ("--batch-size 0",)),
        (("{runs}/kl", "--checkpoint", "first"), ("first",)),
        (("{runs}/kl", "--features", "nonsense"), ("--features nonsense",)),
        (("{runs}/kl", "--features", "{runs}/kl"), ("no feature network",)),
        (("{runs}/kl", "--features", "{runs}/features", "--num", "3"), ("at least 4",)),
        (
            ("{runs}/kl", "--features", "{runs}/features", "--inception-weights", "x"),
            ("--inception-weights goes with",),
        ),
        (("{vq}/model.ckpt", "--config", "{vq}/vq.yaml"), ("names no data", "--data FOLDER")),
        (("{runs}/kl", "--config", "{vq}/vq.yaml"), ("--config goes with a checkpoint file",)),
        (("{vq}/model.ckpt", "--config", "a=1"), ("--config a=1", "YAML")),
        (("{vq}/model.ckpt",), ("model.ckpt", "give its config")),
    ],
)
def test_wrong_input(
    script: Script,
    runs: Path,
    photos: Path,
    vq: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    parts: tuple[str, ...],
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"runs": runs, "photos": photos, "vq": vq, "empty": tmp_path / "empty"}
    filled = [argument.format(**places) for argument in arguments]
    assert_one_line(script(NAME, *filled, "--out", tmp_path / "out"), *parts)
    assert not (tmp_path / "out").exists()


def test_absent_weights_are_named(
    script: Script, runs: Path, tmp_path: Path, no_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = ("--out", tmp_path / "out")
    outcome = script(NAME, runs / "kl", "--lpips", *out)
    assert_one_line(outcome, str(no_cache / "vgg16-397923af.pth"))
    outcome = script(NAME, runs / "kl", "--vgg-weights", tmp_path / "v.pth", *out)
    assert_one_line(outcome, str(tmp_path / "v.pth"))
    for name in ("torch_fidelity", "torch_fidelity.feature_extractor_inceptionv3"):
        monkeypatch.setitem(sys.modules, name, None)
    outcome = script(NAME, runs / "kl", "--features", "inception", *out)
    assert_one_line(outcome, "pip install torch-fidelity")


def test_absent_inception_weights_are_named(
    script: Script, runs: Path, tmp_path: Path, inception: Path
) -> None:
    inception.unlink()
    outcome = script(NAME, runs / "kl", "--features", "inception", "--out", tmp_path / "out")
    assert_one_line(outcome, str(inception))
    outcome = script(
        NAME, runs / "kl", "--inception-weights", tmp_path / "i.pth", "--out", tmp_path / "out"
    )
    assert_one_line(outcome, str(tmp_path / "i.pth"))


def test_a_damaged_image_is_named(script: Script, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for k in range(3):
        Image.new("RGB", (20, 20), (k, 0, 0)).save(tmp_path / "photos" / f"{k}.png")
    (tmp_path / "photos" / "1.png").write_bytes(b"nothing")
    outcome = script(
        NAME, runs / "kl", "--data", tmp_path / "photos", "--size", 16, "--out", tmp_path / "out"
    )
    assert_one_line(outcome, "1.png")
