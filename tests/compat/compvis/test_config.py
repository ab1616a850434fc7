"""Translation of configurations of the original code, on small trees written for the purpose."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ldm.compat.compvis.config import is_published, translate, translate_file
from ldm.conditioners.embeddings import Embeddings
from ldm.conditioners.layout import LayoutTransformer
from ldm.conditioners.spatial import ConcatImage, LatentImage, ResizedMask
from ldm.conditioners.text import TextTransformer
from ldm.config import instantiate, load_config
from ldm.diffusion.loss_weighting import LogVariance, Uniform
from ldm.errors import CheckpointError, ConfigError

DDPM = "ldm.models.diffusion.ddpm.LatentDiffusion"
UNET = "ldm.modules.diffusionmodules.openaimodel.UNetModel"
AUTOENCODER = "ldm.models.autoencoder."
ENCODERS = "ldm.modules.encoders.modules."


def ddconfig(**changes: Any) -> dict[str, Any]:
    return {
        "double_z": True,
        "z_channels": 3,
        "resolution": 16,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1, 1],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "dropout": 0.0,
    } | changes


def first_stage(kind: str = "AutoencoderKL", **changes: Any) -> dict[str, Any]:
    params = {
        "embed_dim": 3,
        "ddconfig": ddconfig(double_z=kind == "AutoencoderKL"),
        "lossconfig": {"target": "torch.nn.Identity"},
    }
    if kind != "AutoencoderKL":
        params["n_embed"] = 11
    return {"target": AUTOENCODER + kind, "params": params | changes}


def unet(**changes: Any) -> dict[str, Any]:
    params = {
        "image_size": 8,
        "in_channels": 3,
        "out_channels": 3,
        "model_channels": 32,
        "num_res_blocks": 1,
        "attention_resolutions": [],
        "channel_mult": [1],
        "num_heads": 2,
    }
    return {"target": UNET, "params": params | changes}


def ldm(**changes: Any) -> dict[str, Any]:
    params = {
        "first_stage_config": first_stage(),
        "cond_stage_config": "__is_unconditional__",
        "unet_config": unet(),
        "linear_start": 0.0015,
        "linear_end": 0.0195,
    }
    return {"target": DDPM, "params": params | changes}


def xattn(conditioner: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return ldm(
        cond_stage_config=conditioner,
        cond_stage_trainable=True,
        conditioning_key="crossattn",
        unet_config=unet(use_spatial_transformer=True, context_dim=12),
        **changes,
    )


def class_embedder(**params: Any) -> dict[str, Any]:
    return {"target": ENCODERS + "ClassEmbedder", "params": {"embed_dim": 12, **params}}


def build(node: dict[str, Any]) -> Any:
    with torch.device("meta"):
        return instantiate(node, "model")


# -- the model --------------------------------------------------------------------------------


def test_names() -> None:
    assert is_published(DDPM)
    assert is_published("main.DataModuleFromConfig")
    assert is_published("ldm.data.lsun.LSUNBedroomsTrain")
    for ours in ("ldm.data.SceneDataset", "ldm.denoisers.UNet", "torch.nn.Identity"):
        assert not is_published(ours)
    assert not is_published(None)


def test_unconditional_model() -> None:
    model = build(ldm(scale_factor=0.5, loss_type="l1"))
    assert type(model.denoiser).__module__ == "ldm.denoisers.unet"
    assert type(model.autoencoder).__module__ == "ldm.autoencoders.kl"
    assert len(model.conditioners) == 0
    assert model.loss == "l1"
    assert isinstance(model.weighting, Uniform)
    assert model.schedule.betas.shape == (1000,)


@pytest.mark.parametrize(
    ("kind", "module"), [("VQModel", "vq"), ("VQModelInterface", "vq"), ("AutoencoderKL", "kl")]
)
def test_first_stages(kind: str, module: str) -> None:
    built = build(first_stage(kind))
    assert type(built).__module__ == f"ldm.autoencoders.{module}"
    assert hasattr(built, "quantize") is (module == "vq")


def test_identity_first_stage_has_the_channels_of_the_denoiser() -> None:
    node = {"target": AUTOENCODER + "IdentityFirstStage", "params": {"vq_interface": False}}
    tree = ldm(first_stage_config=node, unet_config=unet(in_channels=5, out_channels=5))
    assert build(tree).autoencoder.latent_channels == 5
    assert build(node).latent_channels == 3


def test_attention_none_removes_all_attention() -> None:
    settings = {"attn_resolutions": [16], "double_z": False}
    with_attention = build(first_stage("VQModel", ddconfig=ddconfig(**settings)))
    without = build(first_stage("VQModel", ddconfig=ddconfig(**settings, attn_type="none")))
    assert any("attn" in key for key in with_attention.state_dict())
    assert not any("attn" in key for key in without.state_dict())


def test_omitted_arguments_have_the_defaults_of_the_original() -> None:
    tree = unet()
    del tree["params"]["channel_mult"]
    assert translate(tree)["params"]["channel_mult"] == [1, 2, 4, 8]
    assert translate(class_embedder())["params"]["num_classes"] == 1000
    assert translate(ldm())["params"]["schedule"]["params"]["timesteps"] == 1000
    bert = {"target": ENCODERS + "BERTEmbedder", "params": {"n_embed": 12, "n_layer": 1}}
    params = translate(bert)["params"]
    assert (params["vocab_size"], params["length"], params["key"]) == (30522, 77, "tokens")
    assert params["tokenizer"]["params"] == {"vocab": "bert-base-uncased", "length": 77}


def test_class_embedder() -> None:
    classes = build(xattn(class_embedder(n_classes=11), cond_stage_key="class_label"))
    assert classes.conditioners[0].embedding.weight.shape == (11, 12)
    assert classes.conditioners[0].key == "class_label"
    assert not classes.conditioners[0].frozen


@pytest.mark.parametrize(
    ("key", "kind", "entry"),
    [
        ("coordinates_bbox", LayoutTransformer, "box_tokens"),
        ("caption", TextTransformer, "tokens"),
        ("words", TextTransformer, "words"),
    ],
)
def test_token_embedders(key: str, kind: type, entry: str) -> None:
    params = {"n_embed": 12, "n_layer": 1, "vocab_size": 9, "max_seq_len": 5}
    for name, extra in (("BERTEmbedder", {"use_tokenizer": False}), ("TransformerEmbedder", {})):
        node = {"target": ENCODERS + name, "params": params | extra}
        model = build(xattn(node, cond_stage_key=key)).conditioners[0]
        assert type(model) is kind
        assert model.key == entry
        assert model.transformer.token_emb.weight.shape == (9, 12)


def test_the_class_for_layouts_is_that_for_all() -> None:
    """``Layout2ImgDiffusion`` differs from its base in what it logs."""
    params = {"n_embed": 12, "n_layer": 1, "vocab_size": 9, "max_seq_len": 5}
    encoder = {"target": ENCODERS + "BERTEmbedder", "params": params | {"use_tokenizer": False}}
    plain = xattn(encoder, cond_stage_key="coordinates_bbox")
    layout = {**plain, "target": DDPM.replace("LatentDiffusion", "Layout2ImgDiffusion")}
    native = translate(layout, "model")
    assert native == translate(plain, "model")
    assert type(build(native).conditioners[0]) is LayoutTransformer
    of_a_file = translate_file(experiment(layout), "x")
    assert of_a_file == translate_file(experiment(plain), "x")
    assert of_a_file["ema_decay"] == 0.9999
    assert "task" in of_a_file
    for key in ("caption", None):
        layout["params"]["cond_stage_key"] = key
        with pytest.raises(ConfigError, match=r"cond_stage_key: .*coordinates_bbox only"):
            translate(layout, "model")


def test_spatial_rescaler() -> None:
    params = {"n_stages": 2, "in_channels": 7, "out_channels": 2, "method": "area", "bias": True}
    node = {"target": ENCODERS + "SpatialRescaler", "params": params}
    tree = ldm(
        cond_stage_config=node,
        cond_stage_key="segmentation",
        cond_stage_trainable=True,
        unet_config=unet(in_channels=5),
    )
    model = build(tree).conditioners[0]
    assert (model.stages, model.method, model.multiplier, model.channels) == (2, "area", 0.5, 2)
    assert [*model.state_dict()] == ["channel_mapper.weight", "channel_mapper.bias"]
    assert (model.key, model.frozen) == ("segmentation", False)


@pytest.mark.parametrize("name", ["ClassEmbedder", "SpatialRescaler"])
def test_conditioners_that_are_not_trainable_are_frozen(name: str) -> None:
    if name == "ClassEmbedder":
        tree = xattn(class_embedder(), cond_stage_key="class_label")
        tree["params"]["cond_stage_trainable"] = False
    else:
        node = {"target": ENCODERS + name, "params": {"in_channels": 7, "out_channels": 3}}
        tree = ldm(cond_stage_config=node, unet_config=unet(in_channels=6))
    model = build(tree).train()
    assert model.conditioners[0].frozen
    assert model.conditioners[0].in_checkpoint
    assert not model.conditioners[0].training
    assert not any(p.requires_grad for p in model.conditioners.parameters())
    assert any(key.startswith("conditioners.0.") for key in model.state_dict())


def test_conditions_that_are_handed_on_as_they_are() -> None:
    identity = {"target": "torch.nn.Identity"}
    small = build(
        ldm(cond_stage_config=identity, cond_stage_key="LR_image", unet_config=unet(in_channels=7))
    ).conditioners[0]
    assert isinstance(small, ConcatImage)
    assert (small.key, small.channels) == ("lr_image", 4)
    neighbours = build(xattn(identity, cond_stage_key="nix")).conditioners[0]
    assert isinstance(neighbours, Embeddings)
    assert (neighbours.key, neighbours.dim) == ("neighbours", 12)
    for classes, null in ((10, None), (1001, 1000)):
        tree = ldm(
            cond_stage_config=identity,
            cond_stage_key="class_label",
            conditioning_key="adm",
            unet_config=unet(num_classes=classes),
        )
        label = build(tree).conditioners[0]
        assert (label.route, label.key, label.null_index) == ("adm", "class_label", null)


def test_the_first_stage_encodes_the_masked_image() -> None:
    masked = {"cond_stage_config": "__is_first_stage__", "cond_stage_key": "masked_image"}
    parts = build(ldm(**masked, unet_config=unet(in_channels=7))).conditioners
    assert [type(part) for part in parts] == [LatentImage, ResizedMask]
    assert [part.key for part in parts] == ["masked_image", "mask"]
    parts = build(ldm(**masked, unet_config=unet(in_channels=6))).conditioners
    assert [type(part) for part in parts] == [LatentImage]


@pytest.mark.parametrize(
    ("name", "params", "expected", "pad"),
    [
        (
            "FrozenCLIPEmbedder",
            {"max_length": 5},
            {"path": "openai/clip-vit-large-patch14", "length": 5},
            {},
        ),
        (
            "FrozenOpenCLIPEmbedder",
            {"freeze": True, "layer": "penultimate"},
            {
                "arch": "ViT-H-14",
                "pretrained": "laion2b_s32b_b79k",
                "layer": "penultimate",
                "length": 77,
            },
            {"pad": "zero"},
        ),
        (
            "FrozenCLIPTextEmbedder",
            {"version": "ViT-B/32", "device": "cuda"},
            {"arch": "ViT-B-32", "pretrained": "openai", "layer": "pooled", "length": 77},
            {"pad": "zero"},
        ),
    ],
)
def test_frozen_text_encoders(
    name: str, params: dict[str, Any], expected: dict[str, Any], pad: dict[str, Any]
) -> None:
    node = {"target": ENCODERS + name, "params": params}
    tree = xattn(node, cond_stage_key="txt")
    tree["params"]["cond_stage_trainable"] = False
    (text,) = translate(tree)["params"]["conditioners"]
    kind = "CLIPText" if name == "FrozenCLIPEmbedder" else "OpenCLIPText"
    assert text["target"] == f"ldm.conditioners.{kind}"
    tokenizer = text["params"].pop("tokenizer")
    assert text["params"] == expected
    assert tokenizer["params"] == {"length": expected["length"], **pad}
    assert "key" not in text["params"]  # tokens, as of every text


def test_the_empty_class_of_imagenet() -> None:
    label = build(class_embedder(n_classes=1001, key="class_label"))
    assert (label.num_classes, label.null_index) == (1000, 1000)
    assert label.embedding.weight.shape == (1001, 12)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"kind": "linear", "timesteps": 1000, "start": 0.0015, "end": 0.0195}),
        (
            {"beta_schedule": "cosine", "timesteps": 7},
            {"kind": "cosine", "timesteps": 7, "cosine_offset": 0.008},
        ),
        (
            {"given_betas": [0.1, 0.2], "v_posterior": 0.5},
            {"betas": [0.1, 0.2], "v_posterior": 0.5},
        ),
    ],
)
def test_schedules(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    node = translate(ldm(**changes))["params"]["schedule"]
    assert node["params"] == expected
    assert build(node).timesteps == len(build(node).betas)


def test_loss_weighting_and_prediction() -> None:
    changes = {"learn_logvar": True, "logvar_init": 0.5, "original_elbo_weight": 0.1}
    model = build(ldm(**changes, l_simple_weight=2.0, parameterization="x0", timesteps=30))
    assert isinstance(model.weighting, LogVariance)
    assert model.weighting.logvar.shape == (30,)
    assert (model.weighting.simple_weight, model.weighting.elbo_weight) == (2.0, 0.1)
    assert type(model.prediction).__name__ == "X0"
    assert type(build(ldm(parameterization="v")).prediction).__name__ == "V"


def test_scale_by_std_is_measured() -> None:
    assert translate(ldm(scale_by_std=True))["params"]["scale_factor"] is None
    assert translate(ldm(scale_factor=0.2))["params"]["scale_factor"] == 0.2


# -- refusals ---------------------------------------------------------------------------------

P = "model.params"


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            ldm(linear_strt=1),
            f"{P}.linear_strt: unknown key of {DDPM}; did you mean 'linear_start'?",
        ),
        (
            ldm(unet_config=unet(chanel_mult=[1])),
            f"{P}.unet_config.params.chanel_mult: unknown key of {UNET}; "
            "did you mean 'channel_mult'?",
        ),
        (
            ldm(unet_config=unet(dims=3)),
            f"{P}.unet_config.params.dims: {UNET} with dims=3 has no native counterpart, "
            "only 2 has",
        ),
        (
            ldm(unet_config=unet(n_embed=8)),
            f"{P}.unet_config.params.n_embed: {UNET} with n_embed=8 has no native counterpart, "
            "only None has",
        ),
        (
            ldm(first_stage_config=first_stage(ddconfig=ddconfig(attn_type="linear"))),
            f"{P}.first_stage_config.params.ddconfig.attn_type: 'linear' has no native "
            "counterpart, only 'vanilla' and 'none'",
        ),
        (
            ldm(first_stage_config=first_stage(ddconfig=ddconfig(double_z=False))),
            f"{P}.first_stage_config.params.ddconfig.double_z: {AUTOENCODER}AutoencoderKL works "
            "with true only",
        ),
        (
            ldm(num_timesteps_cond=2),
            f"{P}.num_timesteps_cond: {DDPM} with num_timesteps_cond=2 has no native counterpart, "
            "only None or 1 has",
        ),
        (ldm(parameterization="s"), f"{P}.parameterization: expected eps, x0 or v, got 's'"),
        (
            ldm(scale_by_std=True, scale_factor=0.2),
            f"{P}.scale_factor: 0.2 contradicts scale_by_std; remove one",
        ),
        (
            ldm(cond_stage_config=class_embedder(), cond_stage_trainable=True),
            f"{P}.cond_stage_config: {ENCODERS}ClassEmbedder reaches the denoiser by "
            "cross-attention here, not by 'concat'; set conditioning_key: crossattn",
        ),
        (
            ldm(conditioning_key="film", cond_stage_config={"target": "torch.nn.Identity"}),
            f"{P}.conditioning_key: 'film' is none of concat, crossattn, hybrid, adm",
        ),
        (
            xattn({"target": ENCODERS + "SpatialRescaler"}),
            f"{P}.cond_stage_config: {ENCODERS}SpatialRescaler reaches the denoiser by "
            "concatenation here, not by 'crossattn'; set conditioning_key: concat",
        ),
        (
            ldm(cond_stage_config={"target": "torch.nn.Identity"}, conditioning_key="adm"),
            f"{P}.cond_stage_config: the size of the condition is not known: "
            "the UNet has no num_classes",
        ),
        (
            ldm(cond_stage_config="__is_first_stage__", unet_config=unet(in_channels=9)),
            f"{P}.cond_stage_config: __is_first_stage__ gives 3 channels, and a mask one more, "
            "but in_channels of the UNet leaves 6",
        ),
        (
            {"target": "ldm.models.diffusion.ddpm.DDPM", "params": {}},
            "model: ldm.models.diffusion.ddpm.DDPM of the original code has no counterpart in this "
            "library yet; replace model by a native node in a further YAML file",
        ),
        ({**ldm(), "paramss": 1}, "model.paramss: unknown key beside target and params"),
    ],
)
def test_refusals_name_place_and_reason(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        instantiate(tree, "model")
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("changes", "index", "name"),
    [
        ({"cond_stage_config": "__is_second_stage__"}, 0, "__is_second_stage__"),
        (
            {"cond_stage_config": {"target": ENCODERS + "FrozenT5Embedder"}},
            0,
            ENCODERS + "FrozenT5Embedder",
        ),
        (
            {
                "cond_stage_config": {
                    "target": ENCODERS + "SpatialRescaler",
                    "params": {"out_channels": 3},
                },
                "conditioning_key": "hybrid",
            },
            1,
            "the second condition of a hybrid model",
        ),
    ],
)
def test_only_the_conditioner_without_counterpart_is_refused(
    tmp_path: Path, changes: dict[str, Any], index: int, name: str
) -> None:
    file = tmp_path / "theirs.yaml"
    tree = ldm(**changes, unet_config=unet(in_channels=3))
    file.write_text(yaml.safe_dump({"model": tree}))
    config = load_config(file)
    assert instantiate(config.model.params.denoiser).in_channels == 3
    assert instantiate(config.model.params.autoencoder).latent_channels == 3
    with pytest.raises(ConfigError) as error:
        instantiate(config.model)
    place = f"model.params.conditioners[{index}]"
    assert str(error.value) == (
        f"{place}: {name} of the original code has no counterpart in this library yet; "
        f"replace {place} by a native node in a further YAML file"
    )
    ours = tmp_path / "ours.yaml"
    ours.write_text("model: {params: {conditioners: []}}")
    assert len(instantiate(load_config(file, ours).model).conditioners) == 0


# -- whole files ------------------------------------------------------------------------------


def experiment(model: dict[str, Any], **rest: Any) -> dict[str, Any]:
    data = {"target": "main.DataModuleFromConfig", "params": {"batch_size": 10, "wrap": False}}
    return {"model": {"base_learning_rate": 1e-6, **model}, "data": data, **rest}


def test_native_files_come_back_as_they_are() -> None:
    tree = {"model": {"target": "a.B", "params": {"x": [1, {"y": "${z}"}]}}, "z": 3}
    assert translate_file(copy.deepcopy(tree), "x") == tree


def test_published_nodes_inside_native_files_are_translated() -> None:
    tree = {"model": {"target": "a.B", "params": {"net": unet()}}}
    translated = translate_file(tree, "x")["model"]["params"]["net"]
    assert translated["target"] == "ldm.denoisers.UNet"


def test_training_of_a_diffusion_model() -> None:
    cosine = {
        "target": "ldm.lr_scheduler.LambdaWarmUpCosineScheduler",
        "params": {
            "warm_up_steps": 5,
            "lr_min": 0.1,
            "lr_max": 1.0,
            "lr_start": 0.0,
            "max_decay_steps": 20,
            "verbosity_interval": 0,
        },
    }
    logger = {"target": "main.ImageLogger", "params": {"batch_frequency": 500, "max_images": 8}}
    lightning = {
        "trainer": {"benchmark": True, "accumulate_grad_batches": 2},
        "callbacks": {"image_logger": logger},
    }
    tree = translate_file(
        experiment(ldm(scheduler_config=cosine, monitor="val/loss"), lightning=lightning), "x"
    )
    assert set(tree) == {"name", "model", "task", "trainer", "every", "ema_decay", "data"}
    assert tree["ema_decay"] == 0.9999
    assert tree["every"] == {"images": 500}
    assert tree["trainer"] == {
        "benchmark": True,
        "accumulate_grad_batches": 2,
        "max_epochs": 1000,
    }
    assert tree["data"]["target"] == "main.DataModuleFromConfig"
    task = tree["task"]["params"]
    assert task["model"] == "${model}"
    schedule = instantiate(task["lr_schedule"])
    assert [schedule(step) for step in (0, 5, 20)] == pytest.approx([0.0, 1.0, 0.1])
    optimizer = instantiate(task["optimizer"])([torch.nn.Parameter(torch.zeros(1))])
    assert type(optimizer) is torch.optim.AdamW
    assert optimizer.defaults["lr"] == pytest.approx(2e-5)


@pytest.mark.parametrize("name", ["LambdaWarmUpCosineScheduler2", "LambdaLinearScheduler"])
def test_learning_rate_cycles(name: str) -> None:
    params = {
        "warm_up_steps": [5],
        "f_min": [0.1],
        "f_max": [1.0],
        "f_start": [0.0],
        "cycle_lengths": [20],
    }
    schedule = instantiate({"target": f"ldm.lr_scheduler.{name}", "params": params})
    assert [schedule(step) for step in (0, 20)] == pytest.approx([0.0, 0.1])


def test_training_of_autoencoders() -> None:
    params = {"disc_start": 7, "disc_weight": 0.5, "perceptual_weight": 0.0, "disc_num_layers": 2}
    for kind, loss, extra in (
        ("AutoencoderKL", "ldm.modules.losses.LPIPSWithDiscriminator", {"kl_weight": 1e-6}),
        (
            "VQModel",
            "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator",
            {"codebook_weight": 0.5, "disc_ndf": 8, "disc_conditional": False},
        ),
    ):
        lossconfig = {"target": loss, "params": params | extra}
        tree = translate_file(experiment(first_stage(kind, lossconfig=lossconfig)), "x")
        assert "ema_decay" not in tree
        objective = instantiate(tree["task"]["params"]["objective"])
        assert (objective.settings.disc_start, objective.settings.disc_weight) == (7, 0.5)
        assert objective.perceptual_loss is None
        for key, value in extra.items():
            assert getattr(objective, key, value) == value
        weights = iter(torch.nn.Linear(1, 1).parameters())
        optimizer = instantiate(tree["task"]["params"]["discriminator_optimizer"])(weights)
        assert tuple(optimizer.defaults["betas"]) == (0.5, 0.9)
        assert optimizer.defaults["lr"] == pytest.approx(1e-5)


@pytest.mark.parametrize(("in_channels", "channels"), [(3, "rgb"), (1, "repeat")])
@pytest.mark.parametrize(
    "loss", ["LPIPSWithDiscriminator", "vqperceptual.VQLPIPSWithDiscriminator"]
)
def test_autoencoders_train_with_lpips(
    loss: str,
    in_channels: int,
    channels: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As published; and where its weights are absent, it is not silently left out."""
    params = {"disc_start": 7, "disc_in_channels": in_channels}
    lossconfig = {"target": f"ldm.modules.losses.{loss}", "params": params}
    kind = "AutoencoderKL" if loss.startswith("LPIPS") else "VQModel"
    tree = translate_file(experiment(first_stage(kind, lossconfig=lossconfig)), "x")
    node = tree["task"]["params"]["objective"]
    objective = build(node)
    assert objective.perceptual_weight == 1.0
    assert objective.perceptual_loss.channels == channels
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    place = r"^task\.params\.objective\.params\.perceptual: .*vgg16-397923af\.pth: no such file"
    with pytest.raises(CheckpointError, match=place):
        instantiate(node, "task.params.objective")


def test_files_without_data_have_no_learning_rate_and_no_task() -> None:
    tree = experiment(ldm())
    del tree["data"]
    assert set(translate_file(tree, "x")) == {"name", "model", "ema_decay"}
    assert "ema_decay" not in translate_file(experiment(ldm(use_ema=False)), "x")
    for kind, averages in (({"use_ema": True}, True), ({"use_ema": False}, False), ({}, False)):
        tree = translate_file(experiment(first_stage("VQModel", **kind)), "x")
        assert ("ema_decay" in tree) is averages


def test_named_checkpoints_are_loaded_by_the_task_and_not_by_the_model() -> None:
    stage1 = first_stage(ckpt_path="first.ckpt")
    tree = translate_file(experiment(ldm(first_stage_config=stage1, ckpt_path="all.ckpt")), "x")
    assert "ckpt" not in str(tree["model"])
    assert tree["task"]["params"]["model"] == {
        "target": "ldm.load.pretrained",
        "params": {
            "checkpoint": "all.ckpt",
            "path": {
                "target": "ldm.load.pretrained",
                "params": {"path": "${model}", "checkpoint": "first.ckpt", "part": "autoencoder"},
            },
        },
    }


def test_unknown_parts_of_lightning_are_refused() -> None:
    for lightning, place in (
        ({"logger": {}}, "lightning.logger"),
        ({"callbacks": {"x": {"target": "main.X"}}}, "lightning.callbacks.x"),
    ):
        with pytest.raises(ConfigError, match=f"^{place}: has no native counterpart; remove it$"):
            translate_file(experiment(ldm(), lightning=lightning), "x")
