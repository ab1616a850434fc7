"""Ready models from run folders and from checkpoints of the original code."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ldm.autoencoders.base import DiagonalGaussian
from ldm.checkpoint import read_state, save
from ldm.compat.compvis.networks import autoencoder_vq
from ldm.compat.compvis.weights import to_compvis
from ldm.compat.native import read_first_stage
from ldm.config import instantiate, load_config, save_config
from ldm.diffusion.latent_diffusion import latent_moments, scale_from_moments
from ldm.errors import CheckpointError, ConfigError
from ldm.export import export
from ldm.load.model import (
    inline_pretrained,
    load_model,
    locate,
    pretrained,
    pretrained_checkpoints,
)
from ldm.samplers.ddim import DDIM
from tests.compat.first_stages import build, kl, vq
from tests.parity import Case, assert_close, load_case

AUTOENCODER = {
    "target": "ldm.autoencoders.AutoencoderKL",
    "params": {
        "embed_dim": "${width}",
        "architecture": {
            "target": "ldm.autoencoders.Architecture",
            "params": {
                "channels": 32,
                "channel_mult": [1, 1],
                "num_res_blocks": 1,
                "z_channels": "${width}",
            },
        },
    },
}
DIFFUSION = {
    "target": "ldm.diffusion.LatentDiffusion",
    "params": {
        "scale_factor": None,
        "autoencoder": {"target": "ldm.load.pretrained", "params": {"path": "${first_stage}"}},
        "schedule": {
            "target": "ldm.diffusion.NoiseSchedule",
            "params": {"timesteps": 20},
        },
        "denoiser": {
            "target": "ldm.denoisers.UNet",
            "params": {
                "in_channels": 4,
                "out_channels": 4,
                "model_channels": 32,
                "channel_mult": [1],
                "num_res_blocks": 1,
                "attention_resolutions": [],
                "num_heads": 2,
            },
        },
    },
}


def make_run(folder: Path, config: DictConfig, value: float = 0.1) -> nn.Module:
    """A run folder as training leaves it; the averaged weights are ``value`` everywhere."""
    inlined = inline_pretrained(config)
    save_config(inlined, folder / "config.yaml")
    model: nn.Module = instantiate(inlined.model)
    if hasattr(model, "set_scale_factor"):
        model.set_scale_factor(0.25)
    shadow = {
        key: torch.full_like(tensor, value)
        for key, tensor in model.named_parameters()
        if tensor.requires_grad
    }
    content = {
        "state_dict": {f"model.{key}": tensor for key, tensor in model.state_dict().items()}
        | {"objective.logvar": torch.zeros(())},
        "ema": {"num_updates": 3, "shadow": shadow},
        "global_step": 5,
    }
    save(content, folder / "checkpoints" / "last.ckpt")
    return model


@pytest.fixture
def stage1(tmp_path: Path) -> Path:
    config = OmegaConf.create({"width": 4, "model": AUTOENCODER, "task": {"model": "${model}"}})
    make_run(tmp_path / "stage1", config)
    return tmp_path / "stage1"


@pytest.fixture
def config(stage1: Path) -> DictConfig:
    return OmegaConf.create(
        {"first_stage": str(stage1), "model": DIFFUSION, "task": {"model": "${model}"}}
    )


# -- runs -------------------------------------------------------------------------------------


def test_a_run_folder_is_enough(stage1: Path) -> None:
    model = load_model(stage1)
    assert not model.training
    assert all((value == 0.1).all() for value in model.parameters())
    live = load_model(stage1, ema=False)
    assert not (live.encoder.conv_in.weight == 0.1).any()
    for same in (stage1 / "checkpoints" / "last.ckpt", str(stage1)):
        assert load_model(same).state_dict().keys() == model.state_dict().keys()


def test_last_and_best(stage1: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = stage1 / "checkpoints"
    with pytest.raises(CheckpointError, match=r"stage1 has no checkpoints/best\.ckpt"):
        load_model(stage1, "best")
    assert locate(stage1).used() == str(folder / "last.ckpt")
    (folder / "last.ckpt").rename(folder / "best.ckpt")
    source = locate(stage1)
    assert not caplog.text
    source.model()
    assert "best.ckpt: of the lowest validation loss: there is no last.ckpt" in caplog.text
    assert "best.ckpt (step 5, of the lowest validation loss: there is" in source.used()
    named = locate(stage1, "best")
    named.model()
    assert named.used() == f"{folder / 'best.ckpt'} (step 5)"
    (folder / "step-5.ckpt").touch()
    with pytest.raises(CheckpointError, match=r"It has best\.ckpt, step-5\.ckpt: name one"):
        load_model(stage1, "last")
    with pytest.raises(CheckpointError, match=r"no checkpoints/last\.ckpt; has it been trained"):
        load_model(stage1, "last")
    load_model(stage1, folder / "best.ckpt")


def test_second_stage_holds_the_weights_of_the_first(config: DictConfig, stage1: Path) -> None:
    built = instantiate(config.model)
    assert (built.autoencoder.encoder.conv_in.weight == 0.1).all()
    make_run(stage1.parent / "stage2", config, value=0.2)
    saved = load_config(stage1.parent / "stage2" / "config.yaml")
    assert "pretrained" not in OmegaConf.to_yaml(saved)
    for file in (stage1 / "config.yaml", stage1 / "checkpoints" / "last.ckpt"):
        file.unlink()
    model = load_model(stage1.parent / "stage2")
    assert (model.denoiser.out[2].weight == 0.2).all()
    assert model.scale_factor == 0.25
    assert not (model.autoencoder.encoder.conv_in.weight == 0.2).any()


def test_inlining_keeps_interpolations_and_the_original(config: DictConfig) -> None:
    before = OmegaConf.to_container(config)
    inlined = inline_pretrained(config)
    assert OmegaConf.to_container(config) == before
    assert OmegaConf.to_container(inlined)["task"] == {"model": "${model}"}
    assert inlined.model.params.autoencoder.target == AUTOENCODER["target"]
    assert inlined.task.model.params.autoencoder.params.embed_dim == 4


def test_inlining_in_lists_and_of_given_networks(config: DictConfig) -> None:
    node = {"target": "ldm.load.pretrained", "params": {"path": "${model}", "checkpoint": "x.ckpt"}}
    outer = {"target": "ldm.load.pretrained", "params": {"path": node, "checkpoint": "y.ckpt"}}
    config.task = {"model": outer, "more": [config.model.params.autoencoder]}
    inlined = OmegaConf.to_container(inline_pretrained(config))
    assert inlined["task"]["model"] == "${model}"
    assert inlined["task"]["more"][0]["target"] == AUTOENCODER["target"]


def test_inlining_a_config_file_resolves_its_interpolations(tmp_path: Path) -> None:
    file = tmp_path / "net.yaml"
    OmegaConf.save(OmegaConf.create({"width": 4, "model": AUTOENCODER}), file)
    node = {"target": "ldm.load.pretrained", "params": {"path": str(file), "checkpoint": "x.ckpt"}}
    assert inline_pretrained(OmegaConf.create({"model": node})).model.params.embed_dim == 4


def test_digests_of_the_files_a_run_builds_on(config: DictConfig, stage1: Path) -> None:
    file = stage1 / "checkpoints" / "last.ckpt"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert pretrained_checkpoints(config) == {str(file): digest}
    assert pretrained_checkpoints(inline_pretrained(config)) == {}
    file.unlink()
    with pytest.raises(CheckpointError, match="has it been trained"):
        pretrained_checkpoints(config)


def test_weights_for_a_part_of_a_given_network(config: DictConfig, stage1: Path) -> None:
    model = instantiate(inline_pretrained(config).model)
    checkpoint = stage1 / "checkpoints" / "last.ckpt"
    assert pretrained(model, checkpoint, part="autoencoder") is model
    assert (model.autoencoder.encoder.conv_in.weight == 0.1).all()
    with pytest.raises(ConfigError, match="part='x' needs a network as path"):
        pretrained("runs/x", part="x")


def test_messages(tmp_path: Path, config: DictConfig) -> None:
    with pytest.raises(ConfigError, match="nix: no such run folder or config; train it first"):
        load_model(tmp_path / "nix")
    with pytest.raises(ConfigError, match="not a run folder, it has no config"):
        load_model(tmp_path)
    with pytest.raises(CheckpointError, match="a config alone has no weights; give a checkpoint"):
        load_model(config)
    with pytest.raises(ConfigError, match="model: missing; the config describes no model"):
        load_model(OmegaConf.create({"a": 1}), "x.ckpt")
    no_network = {"model": {"target": "collections.OrderedDict"}}
    with pytest.raises(ConfigError, match="model: builds a OrderedDict, not a network"):
        load_model(OmegaConf.create(no_network), "x.ckpt")
    config.first_stage = str(tmp_path / "nix")
    for call in (inline_pretrained, lambda config: instantiate(config.model)):
        with pytest.raises(ConfigError, match="nix: no such run folder or config; train it first"):
            call(config)


# -- first stages of others -------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["", "vae"])
def test_first_stage_from_diffusers(config: DictConfig, tmp_path: Path, inside: str) -> None:
    """A stage-2 config may name a folder of diffusers where it names a run."""
    folder, node = tmp_path / "hub" / inside, kl()
    model = build(node)
    export(model, OmegaConf.create({"model": node}), folder, "diffusers")
    config.first_stage = str(tmp_path / "hub")
    built = instantiate(config.model)
    for key, value in model.state_dict().items():
        assert torch.equal(built.autoencoder.state_dict()[key], value)
    file = folder / "diffusion_pytorch_model.safetensors"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert pretrained_checkpoints(config) == {str(file): digest}
    inlined = inline_pretrained(config)
    assert read_first_stage(OmegaConf.to_container(inlined.model.params.autoencoder)) == (
        read_first_stage(node)
    )
    make_run(tmp_path / "stage2", config)
    file.unlink()
    assert load_model(tmp_path / "stage2").autoencoder.encoder.conv_in.in_channels == 3
    with pytest.raises(CheckpointError, match=r"has no diffusion_pytorch_model\.safetensors or"):
        pretrained_checkpoints(config)


DDCONFIG = {
    "double_z": False,
    "z_channels": 5,
    "resolution": 16,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 1],
    "num_res_blocks": 1,
    "attn_resolutions": [8],
    "dropout": 0.0,
}


def taming(target: str = "taming.models.vqgan.VQModel") -> dict[str, Any]:
    """A configuration as taming-transformers ships them."""
    loss = {
        "target": "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator",
        "params": {"disc_start": 250001, "disc_weight": 0.8, "codebook_weight": 1.0},
    }
    params = {"embed_dim": 4, "n_embed": 11, "ddconfig": DDCONFIG, "lossconfig": loss}
    data = {"target": "main.DataModuleFromConfig", "params": {"batch_size": 2}}
    model = {"base_learning_rate": 4.5e-6, "target": target, "params": params}
    return {"model": model, "data": data}


@pytest.mark.parametrize("described", ["taming", "native"])
def test_checkpoint_of_taming(tmp_path: Path, described: str) -> None:
    tree = taming()
    node = autoencoder_vq(tree["model"]["params"], "taming.models.vqgan.VQModel", "model.params")
    model = build(node)
    state = {key: value + 0 for key, value in model.state_dict().items()}
    state |= {"loss.perceptual_loss.lin0.model.1.weight": torch.zeros(1, 64, 1, 1)}
    state |= {"loss.discriminator.main.0.weight": torch.zeros(64, 3, 4, 4)}
    optimizers = [{"state": {0: {"exp_avg": torch.ones(9)}}, "param_groups": [{"lr": 1e-5}]}]
    content = {"state_dict": state, "epoch": 3, "global_step": 9, "optimizer_states": optimizers}
    torch.save(content, tmp_path / "last.ckpt")
    tree = tree if described == "taming" else {"model": node}
    OmegaConf.save(OmegaConf.create(tree), tmp_path / "vqgan.yaml")
    loaded = load_model(tmp_path / "vqgan.yaml", tmp_path / "last.ckpt")
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)


def test_gumbel_configurations_are_refused(tmp_path: Path) -> None:
    tree = taming("taming.models.vqgan.GumbelVQ")
    OmegaConf.save(OmegaConf.create(tree), tmp_path / "gumbel.yaml")
    with pytest.raises(ConfigError, match=r"taming\.models\.vqgan\.GumbelVQ .*has no counterpart"):
        load_model(tmp_path / "gumbel.yaml", tmp_path / "last.ckpt")


def test_folders_as_they_were_published(tmp_path: Path) -> None:
    """``models/first_stage_models/vq-f4/{config.yaml,model.ckpt}``."""
    node = vq(channels=32, norm_groups=32)
    model = build(node)
    export(model, OmegaConf.create({"model": node}), tmp_path, "compvis")
    for source in (tmp_path, tmp_path / "model.ckpt"):
        loaded = load_model(source)
        assert torch.equal(loaded.quantize.embedding.weight, model.quantize.embedding.weight)


# -- a published checkpoint -------------------------------------------------------------------


@pytest.fixture(scope="module")
def case() -> Case:
    return load_case("ldm_full_checkpoint")


def published(case: Case, folder: Path) -> tuple[Path, Path]:
    """The case as a CompVis configuration file and a CompVis checkpoint file."""
    tree = {"model": {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": case.config}}
    OmegaConf.save(OmegaConf.create(tree), folder / "config.yaml")
    torch.save({"state_dict": case.weights, "global_step": 3}, folder / "model.ckpt")
    return folder / "config.yaml", folder / "model.ckpt"


def test_published_model_from_its_files(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, checkpoint = published(case, tmp_path)
    with_logs = tmp_path / "logs.yaml"
    with_logs.write_text("model: {params: {weighting: {target: ldm.diffusion.LogVariance}}}")
    model: Any = load_model(load_config(config, with_logs), checkpoint, ema=False)
    inputs, outputs = case.inputs, case.outputs
    images = inputs["image"].permute(0, 3, 1, 2)
    batch = {"image": images, "class_label": inputs["class_label"]}

    def recorded(self: DiagonalGaussian, generator: Any = None) -> torch.Tensor:
        return self.mean + self.std * noise

    monkeypatch.setattr(DiagonalGaussian, "sample", recorded)
    noise = inputs["std_rescale.noise"]
    measured = scale_from_moments(latent_moments([model.encode_unscaled(images)]))
    assert measured == pytest.approx(outputs["std_rescale.scale_factor"].item(), rel=5e-5)

    noise = inputs["posterior_noise"]
    z = model.encode(images)
    assert_close(z, outputs["z"], what="z")
    assert_close(model.decode(z), outputs["xrec"], what="xrec")
    cond = model.condition(batch)
    assert_close(cond.context, outputs["c"], what="c")
    loss, logs = model.training_loss(z, cond, inputs["t"], inputs["noise"])
    assert_close(loss, outputs["loss_eval.loss"], what="loss")
    for name in ("loss", "loss_simple", "loss_vlb"):
        assert_close(logs[name], outputs[f"loss_eval.log.{name}"], what=name)

    averaged: Any = load_model(config, checkpoint)
    cond = averaged.condition(batch)
    loss, _ = averaged.training_loss(outputs["z"], cond, inputs["t"], inputs["noise"])
    assert_close(loss, outputs["loss_ema"], what="loss_ema")
    with torch.no_grad():
        steps = list(
            DDIM(steps=4)(
                averaged.denoise(cond), inputs["ddim_ema.x_T"], averaged.schedule, torch.randn_like
            )
        )
        image = averaged.decode(steps[-1].x)
    assert [step.t for step in steps] == outputs["ddim_ema.t_calls"].tolist()
    assert_close(steps[-1].x, outputs["ddim_ema.x"], what="x")
    assert_close(image, outputs["ddim_ema.image"], what="image")
    states = torch.stack([step.x for step in steps])
    assert_close(states, outputs["ddim_ema.x_inter"][1:], what="x_inter")
    x0 = torch.stack([step.x0 for step in steps])
    assert_close(x0, outputs["ddim_ema.pred_x0"][1:], what="pred_x0")


def test_published_names_round_trip(case: Case, tmp_path: Path) -> None:
    config, checkpoint = published(case, tmp_path)
    live: Any = load_model(config, checkpoint, ema=False)
    averaged = load_model(config, checkpoint)
    again = to_compvis(
        live.state_dict(),
        dict(live.schedule.named_buffers()),
        dict(averaged.denoiser.named_parameters(prefix="denoiser")),
        int(case.weights["model_ema.num_updates"]),
        float(case.weights["model_ema.decay"]),
    )
    assert again.keys() == case.weights.keys()
    for key, value in case.weights.items():
        assert again[key].dtype == value.dtype
        torch.testing.assert_close(again[key].detach(), value, rtol=1e-6, atol=1e-9)


def test_published_checkpoint_with_another_config(case: Case, tmp_path: Path) -> None:
    config, checkpoint = published(case, tmp_path)
    wider = load_config(config, overrides=["model.params.denoiser.params.model_channels=64"])
    with pytest.raises(CheckpointError, match=r"model\.ckpt does not fit the model: .* of another"):
        load_model(wider, checkpoint)
    later = load_config(config, overrides=["model.params.schedule.params.end=0.03"])
    with pytest.raises(CheckpointError, match="its noise schedule differs from the config's"):
        load_model(later, checkpoint)
    assert read_state(checkpoint).format == "compvis"
