"""Encode the images of a stage-2 config once, and train from their latents."""

from __future__ import annotations

import argparse
import functools
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from tqdm import tqdm

import ldm
from ldm.autoencoders import base as stored
from ldm.cli.app import say
from ldm.cli.latent_cache import SPLITS, first_seed, flip_probability, model_node, with_flip
from ldm.config import instantiate, to_yaml
from ldm.data.latents.manifest import FILE, DamagedManifestError, Manifest, Recipe, Split
from ldm.data.latents.shard import describe, odd_entry, pack
from ldm.data.latents.verify import verify_items, verify_sums
from ldm.data.latents.writer import Encoder, ItemPairs, Writer
from ldm.distributed import Processes, own_device
from ldm.errors import ConfigError, UserError
from ldm.files import write_text
from ldm.locks import sole_writer

DATA = "data.yaml"
SAMPLES = 16
"""Items of a set that are encoded anew to verify a cache."""


@dataclass(frozen=True)
class Job:
    """What is to be cached, and how."""

    arguments: argparse.Namespace
    recipe: Recipe
    flip: float
    pairs: dict[str, ItemPairs]
    encode: Encoder

    @property
    def out(self) -> Path:
        """Folder of the cache."""
        path: Path = self.arguments.out
        return path


def run(arguments: argparse.Namespace) -> None:
    """Make the cache, or go on with it; verify it."""
    processes = Processes.join()
    job = _job(arguments, torch.device(own_device(arguments.device)))
    if arguments.verify:
        manifest = Manifest.load(job.out)
        _check_recipe(manifest, job)
        if not manifest.complete:
            raise UserError(f"{job.out} is not complete: repeat the call without --verify")
    else:
        manifest = _make(job, processes)
    if processes.first:
        _verify(job, manifest)
        total = sum(shard.bytes for s in manifest.splits.values() for shard in s.shards)
        shards = sum(s.count for s in manifest.splits.values())
        say(
            f"{job.out}: {total / 2**20:.1f} MiB in {shards} shards, key {manifest.recipe.key[:12]}"
        )
        say(f"train from it: the same config, then {job.out / DATA}")


def _job(arguments: argparse.Namespace, device: torch.device) -> Job:
    """Build data sets and autoencoder of a config."""
    flip = flip_probability(arguments.nodes["train"], "data.params.train")
    pairs = {}
    for name, node in arguments.nodes.items():
        place = f"data.params.{name}"
        plain = instantiate(with_flip(node, 0.0), place)
        twin = instantiate(with_flip(node, 1.0), place) if flip > 0 and name == "train" else None
        pairs[name] = ItemPairs(name, plain, twin)
    autoencoder = _autoencoder(arguments.config).eval().requires_grad_(False).to(device)
    item = pairs["train"][0][0]
    if unknown := sorted(set(arguments.without) - set(item)):
        raise ConfigError(
            f"--without {unknown[0]}: items have no such entry, but {', '.join(item)}"
        )
    entry, encode = _encoding(autoencoder, device, item["image"])
    there = _there(arguments.out)
    dtype = arguments.dtype or ("fp32" if there is None else there.recipe.dtype)
    left_out = tuple(sorted({*arguments.without, *(() if arguments.with_image else ("image",))}))
    transform = {name: with_flip(node, 0.0) for name, node in arguments.nodes.items()}
    transform |= {"mirrored": flip > 0, "epochs": arguments.epochs, "left_out": list(left_out)}
    recipe = Recipe(stored.fingerprint(autoencoder.state_dict()), transform, dtype)
    return Job(arguments, recipe, flip, pairs, Encoder(entry, encode, dtype, left_out))


def _autoencoder(config: DictConfig) -> nn.Module:
    """The trained first stage of the model that the task of a config trains."""
    node, place = model_node(config)
    part = OmegaConf.select(node, "params.autoencoder")
    if part is not None:
        found: Any = instantiate(part)
        target = str(part.get("target"))
        if target.startswith("ldm.autoencoders.") and any(True for _ in found.parameters()):
            raise ConfigError(
                f"{place}.params.autoencoder: {target} has random weights: name a trained one by "
                "ldm.load.pretrained"
            )
    else:
        found = getattr(instantiate(node, place), "autoencoder", None)
    if not isinstance(found, nn.Module) or not hasattr(found, "encode"):
        raise ConfigError(f"{place}: is no latent diffusion model, it has no autoencoder")
    return found


def _encoding(
    autoencoder: Any, device: torch.device, image: Tensor
) -> tuple[str, Callable[[Tensor], Tensor]]:
    """Name of the entry that is kept, and the function that makes it of images."""

    @torch.no_grad()
    def encode(images: Tensor) -> Tensor:
        try:
            return stored.to_entry(autoencoder.encode(images.to(device)))[1].float().cpu()
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"out of memory with {len(images)} images at once: give a smaller --batch-size"
            ) from error

    with torch.no_grad():
        channels = autoencoder.image_channels
        if len(image) != channels:
            raise UserError(
                f"images have {len(image)} channels, the autoencoder takes {channels}: give data "
                "of its kind"
            )
        name, _ = stored.to_entry(autoencoder.encode(image[None].to(device)))
    return name, encode


def _make(job: Job, processes: Processes) -> Manifest:
    """Make what is missing of the cache."""
    with sole_writer(job.out, processes.first):
        manifest, missing = processes.from_first(lambda: _begin(job))
        writer = Writer(
            job.out, manifest, job.encode, job.arguments.batch_size, job.arguments.workers
        )
        total = sum(
            stop - start
            for split, numbers in missing.items()
            for _, start, stop in map(manifest.splits[split].span, numbers)
        )
        with tqdm(
            total=total, unit="item", desc="encoding", dynamic_ncols=True,
            disable=not processes.first or not total,
        ) as bar:  # fmt: skip

            def progress(count: int) -> None:
                bar.update(processes.add_done(count) - bar.n)

            for split, numbers in missing.items():
                mine = numbers[processes.rank :: processes.count]
                writer.write(job.pairs[split], split, mine, progress)
            processes.wait(meanwhile=lambda: progress(0))
        return processes.from_first(lambda: _finish(job, writer))


def _begin(job: Job) -> tuple[Manifest, dict[str, list[int]]]:
    """Write the manifest of a new cache, or go on with one; which shards are missing."""
    found = _there(job.out, say)
    if found is not None:
        _check_recipe(found, job)
    manifest = found or _plan(job)
    writer = Writer(job.out, manifest, job.encode, 1, 0)
    if found is None:
        writer.forget()
        manifest.save(job.out)
    missing = {split: writer.missing(split) for split in manifest.splits}
    for split, about in manifest.splits.items():
        kinds = "plain and mirrored" if about.mirrored else "plain only"
        say(
            f"{split}: {about.items} items, {kinds}, {about.epochs} epochs, {job.encode.entry} in "
            f"{manifest.recipe.dtype}; {about.count - len(missing[split])} of {about.count} shards "
            "are there"
        )
    return manifest, missing


def _there(out: Path, tell: Callable[[str], object] = lambda _: None) -> Manifest | None:
    """The manifest of a cache that was begun; a damaged one is void, which is told."""
    if not os.path.lexists(out / FILE):
        return None
    try:
        return Manifest.load(out)
    except DamagedManifestError as error:
        tell(f"warning: {error}, which is done now")
        return None


def _plan(job: Job) -> Manifest:
    _check_draws(job)
    schema, sizes, splits = None, set(), {}
    for name, pairs in job.pairs.items():
        plain, mirrored = pairs[0]
        sizes.add(tuple(plain["image"].shape[-2:]))
        kept = job.encode([plain], f"item 0 of the {name} set")
        found = describe(kept[0])
        if schema is not None and (odd := odd_entry(found, schema)) is not None:
            raise UserError(
                f"{odd!r} of training and validation set differ: {schema.get(odd)} and "
                f"{found.get(odd)}; make them alike, or leave it out with --without {odd}"
            )
        schema = found
        twins = job.encode([mirrored], "item 0") if mirrored is not None else []
        columns = pack(kept, twins, schema).values()
        each = sum(column.numel() * column.element_size() for column in columns)
        step = job.arguments.batch_size
        rows = max(1, int(job.arguments.shard_mib * 2**20 / max(each, 1)) // step) * step
        epochs = job.arguments.epochs if name == "train" else 1
        splits[name] = Split(len(pairs), epochs, mirrored is not None, rows)
    assert schema is not None
    (image_size, *others) = sizes
    if others:
        raise UserError(f"images of training and validation set have different sizes: {sizes}")
    versions = {
        "ldm": ldm.__version__,
        "torch": torch.__version__,
        "pillow": PIL.__version__,
        "python": platform.python_version(),
    }
    return Manifest(job.recipe, image_size, schema, splits, versions)


def _check_draws(job: Job) -> None:
    """Refuse to keep one draw of what training draws anew in every epoch."""
    found = job.pairs["train"].changing_entry()
    epochs = job.arguments.epochs
    if found is not None and epochs == 1:
        raise UserError(
            f"{found[1]!r} of training item {found[0]} is drawn anew in every epoch (random crops, "
            "masks, degradations, captions): keep K epochs of draws with --epochs K, or turn them "
            "off, e.g. data.params.train.params.crop=center (of tar shards: "
            "data.params.train.params.framing.params.crop=center)"
        )
    if found is None and epochs > 1:
        raise UserError(
            f"--epochs {epochs}: all epochs of the training set are alike; leave it out"
        )


def _check_recipe(manifest: Manifest, job: Job) -> None:
    if differences := manifest.recipe.differences(job.recipe):
        names = {"autoencoder": "the autoencoder", "dtype": "--dtype"}
        odd = [names.get(key, key) for key in differences]
        raise UserError(
            f"{job.out} is stale: it was made with another value of {', '.join(odd[:5])}; delete "
            "it, or give another --out"
        )
    for name, about in manifest.splits.items():
        if about.items != len(job.pairs[name]):
            raise UserError(
                f"{job.out} is stale: it is of {about.items} {name} items, there are "
                f"{len(job.pairs[name])} now; delete it, or give another --out"
            )


def _finish(job: Job, writer: Writer) -> Manifest:
    manifest = writer.finish()
    data = {name: _node(job, manifest, name) for name in SPLITS}
    images = job.arguments.nodes  # which evaluations look at
    tree = {"data": {"params": data}, "uncached": images}
    text = "# Written by scripts/cache_latents.py: the data node to train with, after the config.\n"
    text += to_yaml(OmegaConf.create(tree))
    write_text(job.out / DATA, text)
    return manifest


def _node(job: Job, manifest: Manifest, split: str) -> dict[str, Any]:
    params: dict[str, Any] = {"root": str(job.out), "split": split, "key": manifest.recipe.key}
    if split == "train":
        params |= {"flip": job.flip, "seed": first_seed(job.arguments.nodes["train"])}
    if "image_size" in job.arguments.config:
        params["image_size"] = "${image_size}"
    return {"target": "ldm.data.CachedLatents", "params": params}


def _verify(job: Job, manifest: Manifest) -> None:
    total = sum(shard.bytes for s in manifest.splits.values() for shard in s.shards)
    with tqdm(total=total, unit="B", unit_scale=True, desc="verifying", dynamic_ncols=True) as bar:
        verify_sums(job.out, manifest, bar.update)
    check = functools.partial(verify_items, job.out, manifest)
    worst = max(check(name, pairs, job.encode, SAMPLES) for name, pairs in job.pairs.items())
    say(f"verified: all checksums; {SAMPLES} items of each set encoded anew, off by {worst:.1e}")
