"""What the files give that the last release has saved: numbers that must stay.

``tests/fixtures/old_release`` was made by that release (MADE.md); its ``expected.json`` too, with
``numbers_of``. Nothing of ldm is named here but by the dotted names of then, as YAML files do.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import io
import json
import lzma
import math
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from safetensors import safe_open
from torch import Tensor
from torch.utils.data import IterableDataset, default_collate

from ldm.cli import app
from ldm.config import instantiate, load_config
from ldm.load import load_model

HERE = Path(__file__).parent / "fixtures" / "old_release"
TOLERANCE = 1e-4  # of the largest magnitude in a group of numbers
ONE_GREY = 1.0
MORE_STEPS = 2
LOADED = {
    "runs/old-kl": {},
    "runs/old-vq": {},
    "runs/old-features": {},
    "runs/old-class": {},
    "runs/old-class, no ema": {"ema": False},
    "runs/old-text": {},
    "runs/old-classifier": {},
    "runs/old-cached": {},
    "runs/old-toy": {},
    "runs/old-toy, best": {"checkpoint": "best"},
    "exported/kl": {},
    "exported/kl-diffusers": {},
    "exported/vq-half": {},
    "exported/denoiser": {},
    "exported/clip": {},
    "exported/inpainting-half": {},
}
"""Source of load_model, and its other arguments."""
RUNS = ("old-kl", "old-vq", "old-features", "old-class", "old-text", "old-classifier",
        "old-cached", "old-toy")  # fmt: skip


def unpack(target: Path, source: Path = HERE) -> Path:
    """A copy to work on, with all files as the old release left them."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    for file in target.rglob("*.xz"):
        file.with_suffix("").write_bytes(lzma.decompress(file.read_bytes()))
        file.unlink()
    return target


# -- numbers of tensors, models, data ----------------------------------------------------------


def numbers(x: Any) -> Any:
    """Shape, mean, standard deviation, sum and eight values, evenly from all."""
    if not isinstance(x, Tensor):
        return x if isinstance(x, (int, float, str)) else str(x)
    flat = x.detach().double().flatten()
    places = torch.linspace(0, len(flat) - 1, min(8, len(flat))).round().long()
    return {
        "shape": list(x.shape),
        "dtype": str(x.dtype),
        "mean": float(flat.mean()),
        "std": float(flat.std(correction=0)),
        "sum": float(flat.sum()),
        "values": flat[places].tolist(),
    }


def state_numbers(state: dict[str, Tensor]) -> dict[str, Any]:
    """Names and shapes of weights as a digest, and their sums."""
    text = "".join(f"{name} {tuple(state[name].shape)}\n" for name in sorted(state))
    floats = [v.double() for v in state.values() if v.is_floating_point()]
    return {
        "names_and_shapes": hashlib.sha256(text.encode()).hexdigest(),
        "count": len(state),
        "sum": float(sum(v.nan_to_num().sum() for v in floats)),
        "magnitude": float(sum(v.nan_to_num().abs().sum() for v in floats)),
    }


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Fixed numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def first_items(dataset: Any, count: int = 2) -> list[dict[str, Any]]:
    """The first items, of a stream too."""
    if isinstance(dataset, IterableDataset):
        stream = iter(dataset)
        return [next(stream) for _ in range(count)]
    return [dataset[k] for k in range(min(count, len(dataset)))]


def ddim(model: Any, batch: dict[str, Any], size: tuple[int, int], scale: float) -> Tensor:
    """Two seeded samples."""
    sampler = instantiate({"target": "ldm.samplers.ddim.DDIM", "params": {"steps": 4}})
    source = instantiate({"target": "ldm.samplers.noise.SeededNoise", "params": {"seeds": [0, 1]}})
    return model.sample(
        batch, size=size, sampler=sampler, noise=source, guidance_scale=scale, count=2
    )


def points(model: Any) -> Tensor:
    """Sixteen seeded points of the toy model."""
    run = instantiate({"target": "ldm.diffusion.sampling.run_sampler", "partial": True})
    sampler = instantiate({"target": "ldm.samplers.ddim.DDIM", "params": {"steps": 4}})
    source = instantiate({"target": "ldm.samplers.noise.SeededNoise", "params": {"seeds": [0]}})
    batch = {"class_label": torch.arange(16) % 2}
    denoise = model.conditional_denoise(batch, 2.0)
    return model.decode(run(sampler, denoise, noise(16, 2), model.schedule, source))


@torch.no_grad()
def model_numbers(model: Any, config: Any = None) -> dict[str, Any]:
    """What a model makes of fixed inputs."""
    model = model.eval()
    found: dict[str, Any] = {
        "class": type(model).__name__,
        "weights": state_numbers(model.state_dict()),
    }
    if hasattr(model, "conditioners"):  # a latent diffusion model
        items = first_items(instantiate(config.data.params.validation))
        batch = default_collate(items)
        keys = {c.key for c in model.conditioners}
        conditions = {k: v for k, v in batch.items() if k in keys}
        found["scale_factor"] = float(model.scale_factor)
        found["loss"] = float(model(batch, torch.Generator().manual_seed(0))[0])
        if "PointMLP" in type(model.denoiser).__name__:
            found["points"] = numbers(points(model))
            return found
        droppable = any(c.drop_prob > 0 for c in model.conditioners)
        size = (16, 16)
        found["samples"] = numbers(ddim(model, conditions, size, 2.0 if droppable else 1.0))
        found["decoded"] = numbers(model.decode(noise(1, *model.latent_shape(1, size)[1:])))
    elif hasattr(model, "network"):  # a classifier of noisy latents
        x = noise(2, 3, 16, 16)
        found["logits"] = numbers(model.logits(model.encode(x), torch.tensor([1, 15])))
    elif hasattr(model, "encode"):  # a first stage
        posterior = model.encode(noise(2, 3, 16, 16).clamp(-1, 1))
        found["mode"] = numbers(posterior.mode())
        found["sample"] = numbers(posterior.sample(torch.Generator().manual_seed(0)))
        found["decoded"] = numbers(model.decode(noise(2, *posterior.mode().shape[1:])))
    elif hasattr(model, "visual"):  # a CLIP
        images, texts = model(noise(2, 3, 16, 16).clamp(-1, 1), torch.arange(16).view(2, 8))
        found["images"], found["texts"] = numbers(images), numbers(texts)
    elif hasattr(model, "context_dim"):  # a UNet
        context = noise(2, 3, model.context_dim, seed=1)
        x = noise(2, model.in_channels, 8, 8)
        found["prediction"] = numbers(model(x, torch.tensor([1, 15]), context=context))
    else:  # a feature network
        x = noise(2, 3, 16, 16).clamp(-1, 1)
        embedded = model.embed(x)
        logits = embedded["logits"] if "logits" in embedded else model.logits(x)
        found["features"], found["logits"] = numbers(embedded["features"]), numbers(logits)
    return found


@torch.no_grad()
def fill(model: torch.nn.Module) -> torch.nn.Module:
    """Weights that follow from their names, in whatever order they were made."""
    for name, parameter in model.named_parameters():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    if not getattr(model, "has_scale_factor", True):
        model.set_scale_factor(1.5)  # type: ignore[operator]
    return model


# -- the parts ---------------------------------------------------------------------------------


def loaded_models(_: Any) -> dict[str, Any]:
    """Every run and exported folder, by load_model."""
    found = {}
    for name, options in LOADED.items():
        source = name.partition(",")[0]
        file = Path(source, "config.yaml")
        config = load_config(file, complete=False) if file.exists() else None
        found[name] = model_numbers(load_model(source, **options), config)
    return found


def built_models(_: Any) -> dict[str, Any]:
    """Models of saved configs, with weights that follow from their names."""
    found = {}
    for file in sorted(Path("configs_of_runs").glob("*.yaml")):
        config = load_config(file)
        found[file.stem] = model_numbers(fill(instantiate(config.model)), config)
    return found


def configs() -> dict[str, Path]:
    """All configs that a run saved, by name."""
    return {f"runs/{name}": Path("runs", name, "config.yaml") for name in RUNS} | {
        f"configs_of_runs/{file.stem}": file
        for file in sorted(Path("configs_of_runs").glob("*.yaml"))
    }


def data_sets(_: Any) -> dict[str, Any]:
    """Both data sets of every saved config: length and first items; task and optimisers build."""
    found: dict[str, Any] = {}
    for name, file in configs().items():
        config = load_config(file)
        found[name] = {}
        for split in ("train", "validation"):
            dataset = instantiate(config.data.params[split])
            items = [
                {key: numbers(value) for key, value in item.items()}
                for item in first_items(dataset)
            ]
            found[name][split] = {
                "class": type(dataset).__name__,
                "length": len(dataset),
                "items": items,
            }
        task = instantiate(config.task)
        module = instantiate(config.data)
        found[name]["task"] = [type(task).__name__, type(module).__name__]
    return found


def cache(cli: Callable[..., str]) -> dict[str, Any]:
    """The latent cache: key, sums of what is kept, and that it is the one of its config still."""
    manifest = json.loads(Path("caches/old/manifest.json").read_text())
    found: dict[str, Any] = {"key": manifest["key"]}
    for file in sorted(Path("caches/old").rglob("*.safetensors")):
        with safe_open(file, "pt") as content:
            sums = {key: numbers(content.get_tensor(key)) for key in sorted(content.keys())}
        found[str(file)] = sums
    data = load_config("runs/old-cached/config.yaml").data
    for split in ("train", "validation"):
        dataset = instantiate(data.params[split])
        found[split] = [
            {"moments": numbers(dataset[k]["moments"]), "caption": dataset[k]["caption"]}
            for k in range(len(dataset))
        ]
    cached = ("configs/cached.yaml", "--out", "caches/old")
    text = cli("cache_latents.py", *cached, "--verify")
    found["verified"] = "verified: all checksums" in text
    text = cli("cache_latents.py", *cached)
    found["goes on"] = "1 of 1 shards are there" in text
    return found


def resumed(cli: Callable[..., str]) -> dict[str, Any]:
    """Every run for two more steps: the losses, the weights, and that nothing else changed."""
    found = {}
    for name in RUNS:
        run = Path("runs", name)
        before = run.joinpath("metrics.jsonl").read_text().splitlines()
        steps = json.loads(run.joinpath("status.json").read_text())["step"] + MORE_STEPS
        kept = run.with_name(f"{name}.kept")
        shutil.copytree(run, kept)
        cli("train.py", "--resume", str(run), f"trainer.max_steps={steps}")
        rows = [json.loads(row) for row in run.joinpath("metrics.jsonl").read_text().splitlines()]
        status = json.loads(run.joinpath("status.json").read_text())
        state = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
        found[name] = {
            "rows before": len(before),
            "rows": [
                {key: value for key, value in row.items() if not key.startswith("perf/")}
                for row in rows[len(before) :]
                if any(key.startswith(("train/", "val/")) for key in row)
            ],
            "step": status["step"],
            "state": status["state"],
            "changed": status["resumes"][-1]["changed"],
            "weights": state_numbers(state["state_dict"]),
            "callbacks": sorted(state["callbacks"]),
            "averages": state_numbers(state["ema"]["shadow"]) if "ema" in state else None,
        }
        shutil.rmtree(run)
        kept.rename(run)
    return found


def new_run(cli: Callable[..., str]) -> dict[str, Any]:
    """A config of a user with the old names: trained anew, the same as then; and fine-tuned."""
    found = {}
    cli("train.py", "configs/text.yaml", "name=again")
    rows = [json.loads(row) for row in Path("runs/again/metrics.jsonl").read_text().splitlines()]
    found["text"] = [
        {key: value for key, value in row.items() if not key.startswith("perf/")}
        for row in rows
        if any(key.startswith(("train/", "val/")) for key in row)
    ]
    text = cli("train.py", "configs/text.yaml", "--if-exists", "resume")
    found["finished"] = "complete at step 3" in text
    text = cli("train.py", "configs/text.yaml", "--init-from", "runs/old-text", "name=tuned",
               "--dry-run")  # fmt: skip
    found["init_from"] = [line.strip() for line in text.splitlines() if "initialised" in line]
    shutil.rmtree("runs/again")
    return found


def pixels(folder: Path) -> dict[str, str]:
    """SHA-256 of decoded pictures."""
    from PIL import Image

    return {
        file.name: hashlib.sha256(Image.open(file).tobytes()).hexdigest()
        for file in sorted(folder.glob("*.png"))
    }


def values(folder: Path) -> dict[str, Any]:
    """Mean, deviation and some values of pictures in [0, 255]."""
    from torchvision.io import read_image

    return {file.name: numbers(read_image(str(file))) for file in sorted(folder.glob("*.png"))}


def samples(cli: Callable[..., str]) -> dict[str, Any]:
    """Calls of sampling repeated: finished ones change nothing, a killed one goes on."""
    calls = {
        "runs/old-class/generated": ("sample.py", "runs/old-class", "--num-images", "8", "--steps",
            "4", "--guidance", "2", "--batch-size", "4"),
        "samples/euler": ("sample.py", "runs/old-class", "--num-images", "4", "--sampler", "euler",
            "--steps", "4", "--batch-size", "2", "--out", "samples/euler"),
        "samples/guided": ("sample.py", "runs/old-class", "--num-images", "4", "--sampler", "heun",
            "--steps", "4", "--batch-size", "2", "--classifier", "runs/old-classifier",
            "--classifier-scale", "2", "--out", "samples/guided"),
        "samples/text": ("txt2img.py", "runs/old-text", "--validation-captions", "4",
            "--per-prompt", "1", "--steps", "4", "--guidance", "3", "--out", "samples/text"),
    }  # fmt: skip
    found = {}
    for name, call in calls.items():
        folder = Path(name, "images")
        there = pixels(folder)
        text = cli(*call)
        after = pixels(folder)
        found[name] = {
            "were there": [line for line in text.splitlines() if "are there already" in line],
            "untouched": {key: after[key] for key in there} == there,
            "images": values(folder),
        }
        anew = Path("anew", name)
        cli(*[part for part in call if part not in ("--out", name)], "--out", str(anew))
        found[name]["anew"] = values(anew / "images")
    return found


def measured(report: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a report, and which network gave them."""
    return {
        m["name"]: {
            key: m.get(key)
            for key in ("value", "std", "num_real", "num_fake", "features", "features_sha256")
        }
        for m in report["measurements"]
    }


def reports(cli: Callable[..., str]) -> dict[str, Any]:
    """Kept reports, those of the same calls now, and whether they may be compared."""
    evaluate = ("evaluate.py",)
    features = ("--features", "runs/old-features")
    calls = {
        "runs/old-class/generated/metrics.json": (*evaluate, "runs/old-class/generated", "--preset",
            "laptop", *features, "--cache", "features"),
        "reports/on-the-fly.json": (*evaluate, "runs/old-class", "--num", "8", "--steps", "4",
            "--guidance", "2", *features, "--metrics", "fd,kid"),
        "reports/by-statistics.json": (*evaluate, "runs/old-class/generated", "--real",
            "reports/statistics.npz", *features, "--metrics", "fd"),
    }  # fmt: skip
    found: dict[str, Any] = {}
    for name, call in calls.items():
        kept = json.loads(Path(name).read_text())
        out = Path("anew.json")
        cli(*call, "--out", str(out))
        now = json.loads(out.read_text())
        text = cli("compare_reports.py", name, str(out))
        found[name] = {
            "kept": measured(kept),
            "now": measured(now),
            "from_cache": now["run"]["from_cache"],
            "hashes": {side: (now[side] or {}).get("sha256") for side in ("real", "fake")},
            "same hashes": {
                side: (now[side] or {}).get("sha256") == (kept[side] or {}).get("sha256")
                for side in ("real", "fake")
            },
            "comparable": "NOT" not in text,
            "differences": [line for line in text.splitlines() if line.startswith("differs")],
        }
    cli(*evaluate, "scenes/images", *features, "--save-statistics", "anew.npz")
    import numpy as np

    found["statistics"] = {
        key: numbers(torch.from_numpy(value)) if value.dtype.kind == "f" else value.tolist()
        for key, value in np.load("anew.npz").items()
    }
    for name in ("kl", "vq"):
        kept = json.loads(Path("reports", name, "metrics.json").read_text())
        cli("evaluate_autoencoder.py", f"runs/old-{name}", *features, "--out", f"anew-{name}")
        now = json.loads(Path(f"anew-{name}", "metrics.json").read_text())
        found[f"reports/{name}/metrics.json"] = {
            "kept": measured(kept),
            "now": measured(now),
            "readiness": now["readiness"],
        }
    cli("evaluate_task.py", "runs/old-class", "--num", "4", "--steps", "4", "--out", "anew-task")
    found["reports/class-task/task.json"] = {
        "kept": measured(json.loads(Path("reports/class-task/task.json").read_text())),
        "now": measured(json.loads(Path("anew-task/task.json").read_text())),
    }
    return found


def retrieval(cli: Callable[..., str]) -> dict[str, Any]:
    """Embeddings, index and neighbours are those that are kept: nothing is made anew."""
    files = sorted(Path("scenes").glob("embeddings.*"))
    before = {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    config = load_config("configs_of_runs/retrieval.yaml")
    found: dict[str, Any] = {"files": sorted(before)}
    for split in ("train", "validation"):
        dataset = instantiate(config.data.params[split])
        found[split] = [numbers(dataset[k]["neighbours"]) for k in range(len(dataset))]
    text = cli("build_index.py", "scenes/images", "--clip", "data/clip.json", "--clip-weights",
        "exported/clip/model.safetensors", "--embeddings", "scenes/embeddings.safetensors",
        "--index", "ivf", "--cells", "2", "--probes", "2", "--out", "anew.ivf")  # fmt: skip
    found["said"] = text.splitlines()
    after = {
        str(file): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(Path("scenes").glob("embeddings.*"))
    }
    found["untouched"] = before == after
    with safe_open("scenes/embeddings.safetensors", "pt") as content:
        found["vectors"] = numbers(content.get_tensor("vectors"))
    return found


def converted(cli: Callable[..., str]) -> dict[str, Any]:
    """Exported folders and runs converted once more: the same weights under the same names."""
    calls = {
        "kl to diffusers": ("runs/old-kl", "--to", "diffusers"),
        "exported kl to diffusers": ("exported/kl", "--to", "diffusers"),
        "diffusers to native": ("exported/kl-diffusers", "--to", "native"),
        "vq to native": ("runs/old-vq", "--to", "native", "--dtype", "float16"),
        "denoiser to native": ("exported/denoiser", "--to", "native", "--part", "denoiser"),
        "first stage of text": ("runs/old-text", "--to", "native", "--part", "autoencoder"),
        "denoiser of class": ("runs/old-class", "--to", "native", "--part", "denoiser"),
        "text to native": ("runs/old-text", "--to", "native"),
    }
    found = {}
    for name, call in calls.items():
        out = Path("converted", name.replace(" ", "-"))
        cli("convert.py", *call, "--out", str(out))
        (file,) = out.glob("*.safetensors")
        with safe_open(file, "pt") as content:
            found[name] = state_numbers({key: content.get_tensor(key) for key in content.keys()})  # noqa: SIM118
    return found


def names(_: Any) -> dict[str, Any]:
    """Every dotted name that a YAML may hold: found, with the arguments it had."""
    found = {}
    for name in (HERE / "dotted_names.txt").read_text().split():
        factory = instantiate({"target": name, "partial": True}).func
        found[name] = dict.fromkeys(inspect.signature(factory).parameters, True)
    return found


def merged(cli: Callable[..., str]) -> dict[str, Any]:
    """A file and overrides with old names on top of a config of the repository."""
    file = Path(__file__).parents[1] / "configs" / "quickstart" / "autoencoder.yaml"
    config = load_config(
        file,
        "configs/overlay.yaml",
        overrides=[
            "task.params.lr_schedule.target=ldm.training.lr_schedule.WarmupCosine",
            "task.params.lr_schedule.params.warmup_steps=200",  # what the config had then
        ],
    )
    model = instantiate(config.model)
    scenes = instantiate(config.data.params.train)
    objective = OmegaConf.to_container(config.task.params.objective, resolve=True)
    return {
        "weights": len(model.state_dict()),
        "model": sorted(config.model.params),
        "objective": sorted(objective["params"]),
        "disc_weight": objective["params"]["disc_weight"],
        "schedule": instantiate(config.task.params.lr_schedule).warmup_steps,
        "length": len(scenes),
        "image": numbers(scenes[0]["image"]),
    }


PARTS = {
    "names": names,
    "merged": merged,
    "models": loaded_models,
    "built": built_models,
    "data": data_sets,
    "cache": cache,
    "resumed": resumed,
    "new_run": new_run,
    "samples": samples,
    "reports": reports,
    "retrieval": retrieval,
    "converted": converted,
}


def cli(script: str, *arguments: str) -> str:
    """Run a program here; what it said."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        app.call(script.removesuffix(".py"), arguments)
    return said.getvalue()


def numbers_of(part: str, work: Path) -> Any:
    """All numbers of a part, on a copy of its own."""
    with inside(unpack(work / part)):
        return json.loads(json.dumps(PARTS[part](cli)))


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work there."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def differences(old: Any, new: Any, path: str = "", scale: float | None = None) -> list[str]:
    """Where numbers of then are gone, or differ by more than ``TOLERANCE``."""
    if isinstance(old, dict) and isinstance(new, dict):
        scale = max([abs(v) for v in old["values"]], default=0.0) if "values" in old else None
        if old.get("dtype") == "torch.uint8" and scale is not None:
            scale = ONE_GREY / TOLERANCE  # other processors may round a pixel to its neighbour
        found = [f"{path}: {key} is gone" for key in old.keys() - new.keys()]
        for key in old.keys() & new.keys():
            own = scale and (scale * math.prod(old["shape"]) if key == "sum" else scale)
            found += differences(old[key], new[key], f"{path}/{key}", own)
        return found
    if isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            return [f"{path}: {len(old)} and {len(new)} entries"]
        pairs = enumerate(zip(old, new, strict=True))
        return [d for k, (a, b) in pairs for d in differences(a, b, f"{path}[{k}]", scale)]
    if isinstance(old, float) and isinstance(new, (int, float)):
        close = abs(old - new) <= TOLERANCE * max(abs(old), abs(new), scale or 0.0, 1e-6)
        return [] if close or (math.isnan(old) and math.isnan(new)) else [f"{path}: {old} {new}"]
    return [] if old == new else [f"{path}: {old!r} {new!r}"]
