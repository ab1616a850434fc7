r"""Encode the images of a stage-2 config once, and train from their latents.

Examples:
  python scripts/cache_latents.py configs/folder/unconditional.yaml data_root=photos \
    data.params.train.params.crop=center --out caches/photos
  python scripts/train.py configs/folder/unconditional.yaml caches/photos/data.yaml data_root=photos
  torchrun --nproc-per-node 8 scripts/cache_latents.py CONFIG --out caches/mine --dtype bf16
  python scripts/cache_latents.py CONFIG --out caches/mine --epochs 20      20 epochs of crops
  python scripts/cache_latents.py CONFIG --out caches/mine --verify         only check it

Kept are the moments of the posterior (KL) or the latents before quantisation (VQ) of every item of
the training and of the validation set, and all entries but the image. Where the training set is
mirrored (flip > 0) each item is kept plain and mirrored. OUT holds manifest.json, data.yaml (the
data node to train with) and train/*.safetensors, validation/*.safetensors.

If the call is interrupted repeat it: it goes on. At the end all checksums are compared, and some
items are encoded anew. A cache of another autoencoder, other data or another --dtype is refused.
docs/latent-cache.md says more.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from ldm.cli.latent_cache import data_nodes, model_node
from ldm.cli.options.common import check_out_folder, new_parser
from ldm.cli.options.configs import read_config
from ldm.cli.options.model import add_device_option, add_trust_option
from ldm.config import check
from ldm.config.trust import refuse_foreign
from ldm.errors import UserError

DTYPES = ("fp32", "bf16")
"""Of ``ldm.data.latents.manifest.DTYPES``."""
MANIFEST = "manifest.json"
"""``ldm.data.latents.manifest.FILE``."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the program.

    Returns:
        The options; ``config`` is the merged configuration, ``nodes`` those of its data sets.
    """
    options = _parser().parse_intermixed_args(arguments)
    if options.epochs < 1 or options.batch_size < 1 or options.workers < 0:
        raise UserError("--epochs and --batch-size must be at least 1, --workers not negative")
    if not 0 < options.shard_mib < 2**20:
        raise UserError(f"--shard-mib {options.shard_mib}: must be positive")
    _check_out(options.out, options.verify)
    options.config = read_config(options.config, trust=options.trust)
    refuse_foreign(options.config)  # of which plain nodes are made
    options.nodes = data_nodes(options.config)
    for name, node in options.nodes.items():
        check(node, f"data.params.{name}")
    model, _ = model_node(options.config)
    check(OmegaConf.select(model, "params.autoencoder") or model)
    return options


def _check_out(out: Path, verify: bool) -> None:
    check_out_folder("--out", out)
    if (out / MANIFEST).exists():
        return
    if verify:
        raise UserError(f"--out {out}: is no latent cache, it has no {MANIFEST}")
    left = [path.name for path in out.iterdir()] if out.is_dir() else []
    if visible := [name for name in left if not name.startswith(".")]:
        raise UserError(f"--out {out}: holds other files ({min(visible)}); name another")


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("cache_latents", __doc__)
    parser.add_argument(
        "config", nargs="*", help="YAML files of a stage-2 model, then key=value overrides"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the cache")
    parser.add_argument("--dtype", choices=DTYPES, help="of a new cache (default: fp32)")
    parser.add_argument(
        "--epochs", type=int, default=1, metavar="K", help="epochs of random crops to keep"
    )
    parser.add_argument(
        "--without", nargs="+", default=[], metavar="ENTRY", help="entries that are not kept"
    )
    parser.add_argument(
        "--with-image", action="store_true", help="keep images, for a conditioner that reads them"
    )
    parser.add_argument("--verify", action="store_true", help="check a cache and write nothing")
    parser.add_argument("--shard-mib", type=float, default=256, help="size (default: 256)")
    parser.add_argument("--batch-size", type=int, default=32, help="images at once (default: 32)")
    parser.add_argument("--workers", type=int, default=0, help="processes that read images")
    add_trust_option(parser)
    add_device_option(parser)
    return parser
