"""The smallest experiments that go through all of training, on scenes of 16 pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

TRAINER = {"max_steps": 4, "accelerator": "cpu"}
EVERY = {"log": 1, "validation": 2, "checkpoint": 2, "images": 2}


def _data(**options: Any) -> dict[str, Any]:
    def scenes(split: str, length: int) -> dict[str, Any]:
        params = {"resolution": 16, "length": length, "split": split, "num_objects": [1, 1]}
        return {"target": "ldm.data.SceneDataset", "params": params | options}

    return {
        "target": "ldm.training.DataModule",
        "params": {
            "batch_size": 4,
            "train": scenes("train", 32),
            "validation": scenes("validation", 4),
        },
    }


def autoencoder(**changes: Any) -> DictConfig:
    """A KL autoencoder 16x16x3 -> 8x8x2 with a discriminator from batch 2 on."""
    optimizer = {"target": "torch.optim.Adam", "partial": True, "params": {"lr": 1e-3}}
    config = {
        "name": "tiny-autoencoder",
        "seed": 0,
        "model": {
            "target": "ldm.autoencoders.AutoencoderKL",
            "params": {
                "embed_dim": 2,
                "architecture": {
                    "target": "ldm.autoencoders.Architecture",
                    "params": {
                        "channels": 8,
                        "channel_mult": [1, 1],
                        "num_res_blocks": 1,
                        "z_channels": 2,
                        "norm_groups": 2,
                    },
                },
            },
        },
        "task": {
            "target": "ldm.training.AutoencoderTask",
            "params": {
                "model": "${model}",
                "objective": {
                    "target": "ldm.losses.KLObjective",
                    "params": {
                        "discriminator": {
                            "target": "ldm.losses.patch_discriminator",
                            "params": {"width": 4, "num_layers": 1},
                        },
                        "disc_start": 2,
                        "perceptual_weight": 0.0,
                    },
                },
                "optimizer": optimizer,
                "discriminator_optimizer": optimizer,
                "gradient_clip": 1.0,
            },
        },
        "data": _data(),
        "trainer": TRAINER,
        "every": EVERY,
        "ema_decay": 0.9,
    }
    return OmegaConf.merge(OmegaConf.create(config), changes)  # type: ignore[return-value]


def vq_autoencoder(**changes: Any) -> DictConfig:
    """A VQ autoencoder 16x16x3 -> 8x8x2 with 16 codes and a discriminator from batch 2 on."""
    config = autoencoder(name="tiny-vq")
    sizes = config.model.params
    quantizer = {
        "target": "ldm.autoencoders.VectorQuantizer",
        "params": {"num_codes": 16, "dim": sizes.embed_dim, "restart_after": 20},
    }
    config.model = {
        "target": "ldm.autoencoders.AutoencoderVQ",
        "params": {**sizes, "quantizer": quantizer},
    }
    objective = config.task.params.objective
    objective.target = "ldm.losses.VQObjective"
    return OmegaConf.merge(config, changes)  # type: ignore[return-value]


def text2img(first_stage: Path, vocab: Path, **changes: Any) -> DictConfig:
    """A text-conditional diffusion model on the latents of a ``autoencoder`` run."""
    optimizer = {"target": "torch.optim.AdamW", "partial": True, "params": {"lr": 1e-3}}
    tokenizer = {
        "target": "ldm.conditioners.BertTokenizer",
        "params": {"vocab": str(vocab), "length": 8},
    }
    config = {
        "name": "tiny-text2img",
        "seed": 0,
        "image_size": 16,
        "model": {
            "target": "ldm.diffusion.LatentDiffusion",
            "params": {
                "scale_factor": None,
                "autoencoder": {
                    "target": "ldm.load.pretrained",
                    "params": {"path": str(first_stage)},
                },
                "schedule": {
                    "target": "ldm.diffusion.NoiseSchedule",
                    "params": {"timesteps": 20},
                },
                "denoiser": {
                    "target": "ldm.denoisers.UNet",
                    "params": {
                        "in_channels": 2,
                        "out_channels": 2,
                        "model_channels": 8,
                        "channel_mult": [1, 1],
                        "num_res_blocks": 1,
                        "attention_resolutions": [2],
                        "num_heads": 1,
                        "use_spatial_transformer": True,
                        "context_dim": 8,
                        "norm_groups": 2,
                    },
                },
                "conditioners": [
                    {
                        "target": "ldm.conditioners.TextTransformer",
                        "params": {
                            "tokenizer": tokenizer,
                            "vocab_size": 128,
                            "dim": 8,
                            "depth": 1,
                            "length": 8,
                            "drop_prob": 0.5,
                        },
                    }
                ],
            },
        },
        "task": {
            "target": "ldm.training.LatentDiffusionTask",
            "params": {
                "model": "${model}",
                "optimizer": optimizer,
                "gradient_clip": 1.0,
                "preview_steps": 2,
                "preview_guidance": 2.0,
                "scale_factor_samples": 8,
            },
        },
        "data": _data(tokenizer=tokenizer),
        "trainer": TRAINER,
        "every": EVERY,
        "ema_decay": 0.9,
    }
    return OmegaConf.merge(OmegaConf.create(config), changes)  # type: ignore[return-value]


def features(**changes: Any) -> DictConfig:
    """A feature network of the synthetic scenes."""
    config = {
        "name": "tiny-features",
        "seed": 0,
        "model": {
            "target": "ldm.evaluation.SceneFeatures",
            "params": {"width": 8, "dim": 4},
        },
        "task": {
            "target": "ldm.training.FeatureTask",
            "params": {
                "model": "${model}",
                "optimizer": {"target": "torch.optim.AdamW", "partial": True},
            },
        },
        "data": _data(),
        "trainer": TRAINER,
        "every": EVERY,
    }
    return OmegaConf.merge(OmegaConf.create(config), changes)  # type: ignore[return-value]


def class2img(**changes: Any) -> DictConfig:
    """A class-conditional diffusion model whose latents are images through an untrained KL encoder.

    It draws all that stage 2 draws: posteriors, times, noise, dropped conditions, dropout.
    """
    optimizer = {"target": "torch.optim.AdamW", "partial": True, "params": {"lr": 1e-2}}
    schedule = {"warmup_steps": 2, "decay_steps": 30}
    denoiser = {
        "in_channels": 2,
        "out_channels": 2,
        "model_channels": 8,
        "channel_mult": [1],
        "num_res_blocks": 1,
        "attention_resolutions": [1],
        "num_heads": 1,
        "use_spatial_transformer": True,
        "context_dim": 4,
        "norm_groups": 2,
        "dropout": 0.2,
    }
    classes = {"num_classes": 24, "dim": 4, "drop_prob": 0.3, "null_index": 24}
    config = {
        "name": "tiny-class2img",
        "seed": 3,
        "model": {
            "target": "ldm.diffusion.LatentDiffusion",
            "params": {
                "scale_factor": None,
                "autoencoder": autoencoder().model,
                "schedule": {
                    "target": "ldm.diffusion.NoiseSchedule",
                    "params": {"timesteps": 20},
                },
                "denoiser": {"target": "ldm.denoisers.UNet", "params": denoiser},
                "conditioners": [{"target": "ldm.conditioners.ClassLabel", "params": classes}],
            },
        },
        "task": {
            "target": "ldm.training.LatentDiffusionTask",
            "params": {
                "model": "${model}",
                "optimizer": optimizer,
                "lr_schedule": {
                    "target": "ldm.training.WarmupCosine",
                    "params": schedule,
                },
                "gradient_clip": 1.0,
                "preview_steps": 2,
                "scale_factor_samples": 8,
            },
        },
        "data": _data(),
        "trainer": TRAINER,
        "every": EVERY,
        "ema_decay": 0.9,
    }
    return OmegaConf.merge(OmegaConf.create(config), changes)  # type: ignore[return-value]
