"""What is measured, on which images, by which networks."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ldm.config import load_config
from ldm.config.kinds import all_kinds, misfit
from ldm.errors import ConfigError, UserError
from ldm.files import shown
from ldm.places import configs_folder, split_name

_NESTED = {("EvaluationProtocol", "measures"), ("EvaluationProtocol", "small_samples")}
"""What has keys of its own."""
PRESETS = configs_folder() / "evaluation"
METRICS = (
    "fid",
    "fd",
    "sfid",
    "kid",
    "inception_score",
    "precision_recall",
    "density_coverage",
    "clip_score",
    "class_accuracy",
)
"""Names of ``ldm.cli.protocol.MEASURES``."""
NETWORKS = ("inception", "vgg16", "dinov2", "clip:ARCH")
"""Names of ``ldm.evaluation.networks.registry.NAMES``."""
RESIZERS = ("network", "clean", "pil-bicubic", "pil-bilinear", "torch-bilinear")
"""Of ``ldm.evaluation.networks.resizing.NAMES``."""
DEFAULT_SIZE = 256


def add_feature_options(parser: argparse.ArgumentParser) -> None:
    """The options that ``feature_network`` reads."""
    parser.add_argument(
        "--features",
        metavar="NET",
        help=f"feature network: {', '.join(NETWORKS)}, a run folder, or the dotted name of a class",
    )
    parser.add_argument(
        "--weights",
        "--inception-weights",
        dest="inception_weights",
        type=Path,
        metavar="FILE",
        help="weights of a published network (default: inception), if they do not lie where "
        "PyTorch keeps them",
    )


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """The options that ``load_data`` reads."""
    parser.add_argument(
        "--data",
        nargs="+",
        metavar="FOLDER_OR_YAML",
        help="folder of images, or YAML with a data node, then key=value overrides (default: the "
        "validation data of the run)",
    )
    parser.add_argument(
        "--size",
        type=int,
        help="with a folder: shorter side and centre crop (default: the config's image_size, or "
        f"{DEFAULT_SIZE})",
    )


def add_protocol_options(parser: argparse.ArgumentParser) -> None:
    """The options that ``choose_protocol`` and ``load_networks`` read."""
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help=f"a protocol: {', '.join(preset_names())}, or a YAML file of yours",
    )
    parser.add_argument(
        "--features",
        metavar="NET",
        help=f"feature network: {', '.join(NETWORKS)}, a run folder such as runs/laptop-features, "
        "or the dotted name of a class; with a preset: in place of its networks",
    )
    parser.add_argument(
        "--metrics",
        metavar="LIST",
        help=f"without a preset: of {', '.join(METRICS)}; separated by commas (default: fd and "
        "precision_recall, with inception also inception_score)",
    )
    parser.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="[NET=]FILE",
        help="weights of a feature network, if they do not lie where PyTorch keeps them; repeat "
        "for more networks",
    )
    parser.add_argument(
        "--resize",
        choices=RESIZERS,
        help="how images come to the size of the network (default: as the preset says, else the "
        "network's own way)",
    )


def check_features(name: str | None) -> None:
    """Refuse a feature network that there surely is not, before PyTorch is imported.

    Raises:
        UserError: it names those that there are.
    """
    if name is None or os.path.exists(name) or name in NETWORKS:
        return
    kind, _, rest = name.partition(":")
    if kind == "clip" if rest else "." in name:
        return
    raise UserError(
        f"--features {name}: neither one of {', '.join(NETWORKS)} nor a run folder or a dotted name"
    )


def metric_names(text: str) -> list[str]:
    """The names that --metrics lists.

    Raises:
        UserError: one is unknown, or there is none.
    """
    chosen = [name.strip() for name in text.split(",") if name.strip()]
    for name in chosen:
        if name not in METRICS:
            raise UserError(f"--metrics {name}: not one of {', '.join(METRICS)}")
    if not chosen:
        raise UserError(f"--metrics {text!r}: name one or more of {', '.join(METRICS)}")
    return chosen


def preset_names() -> list[str]:
    """The protocols of ``configs/evaluation``."""
    return sorted(file.stem for file in PRESETS.glob("*.yaml") if not file.name.startswith("_"))


def read_preset(name: str) -> tuple[dict[str, Any], Path]:
    """The content of a protocol's file, and which that is, by its name or path.

    Raises:
        UserError: there is no such protocol, or its file is wrong or has unknown keys.
    """
    file = Path(name) if name.endswith((".yaml", ".yml")) else PRESETS / f"{name}.yaml"
    if not file.is_file():
        raise UserError(
            f"--preset {name}: no such protocol; there are {', '.join(preset_names())}, or give a "
            "YAML file like those in configs/evaluation"
        )
    tree: Any = OmegaConf.to_container(load_config(file), resolve=True)
    measures = tree.get("measures")
    nodes = [
        ("", "EvaluationProtocol", tree),
        ("small_samples.", "SmallSamples", tree.get("small_samples")),
    ]
    for k, measure in enumerate(measures if isinstance(measures, list) else ()):
        nodes.append((f"measures[{k}].", "Measure", measure))
    for place, kind, node in nodes:
        known = all_kinds(f"ldm.evaluation.protocol.{kind}")
        for key in node if isinstance(node, dict) else ():
            if key not in known:
                names = ", ".join(known)
                raise ConfigError(f"{file}: {place}{key}: unknown key is none of {names}")
            reason = misfit(node[key], known[key])
            if reason is not None and (kind, key) not in _NESTED:
                raise ConfigError(f"{file}: {place}{key}: {reason}")
    return tree, file


def check_place(where: str, name: str = "") -> None:
    """Refuse a source of images that is surely not there, before PyTorch is imported.

    Args:
        where: as the user names it, see ``ldm.evaluation.open_source``.
        name: of the option, if it is one.

    Raises:
        UserError: there is no such file or folder.
    """
    file, _ = split_name(where)
    several = file.lower().endswith((".tar", ".tar.gz", ".tgz"))  # a pattern, or an address
    if not several and not os.path.exists(os.path.expanduser(file)):
        raise UserError(f"{name}{' ' if name else ''}'{shown(where)}' does not exist; see --help")


def add_source_side_options(parser: argparse.ArgumentParser) -> None:
    """The options that ``open_fake`` and ``open_real`` read."""
    parser.add_argument(
        "--real",
        metavar="SOURCE",
        help="real images: the same kinds of sources, or a run: its own data (default: those of "
        "the run that made the samples)",
    )
    parser.add_argument(
        "--split",
        choices=("train", "validation"),
        help="which data of a run (default: as the preset says, else validation)",
    )
    parser.add_argument(
        "--num",
        type=int,
        help="generated images: the first N of SOURCE, or how many a model makes (default: all, or "
        "as many as the preset wants)",
    )
    parser.add_argument("--num-real", type=int, metavar="N", help="the first N real images")
    parser.add_argument(
        "--labels",
        metavar="uniform|random|LIST",
        help="classes that a model makes images of (default: uniform, in turn)",
    )
    parser.add_argument(
        "--skip-corrupt",
        action="store_true",
        help="leave out images that cannot be read; otherwise they are named, and the exit code is "
        "3",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="keep features there, and the hashes of what is slow to read",
    )
