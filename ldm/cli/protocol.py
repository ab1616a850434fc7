"""The options that say what evaluate.py measures, and the networks that they name."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from ldm.cli.model import say_weights
from ldm.cli.options.evaluation import check_features, metric_names, read_preset
from ldm.config import instantiate
from ldm.errors import UserError
from ldm.evaluation.networks.base import Network
from ldm.evaluation.networks.registry import network, own_network
from ldm.evaluation.networks.resizing import NETWORK
from ldm.evaluation.protocol import GIVEN, EvaluationProtocol, Measure, protocol_from
from ldm.load.model import locate
from ldm.places import split_name

MEASURES = {
    "fid": Measure("frechet"),
    "fd": Measure("frechet"),
    "sfid": Measure("frechet", output="spatial", prefix="s"),
    "kid": Measure("kernel"),
    "inception_score": Measure("inception_score"),
    "precision_recall": Measure("precision_recall"),
    "density_coverage": Measure("density_coverage"),
    "clip_score": Measure("clip_score"),
    "class_accuracy": Measure("class_accuracy"),
}
"""What --metrics may name."""
USUAL = ("fd", "precision_recall")


def choose_protocol(arguments: argparse.Namespace) -> EvaluationProtocol | None:
    """What is to be measured by features; None if nothing is.

    Raises:
        UserError: the options contradict each other.
    """
    features = arguments.features
    if arguments.preset is None:
        if features is None:
            return None
        # Nobody's protocol asks for other real images than those that the command line names.
        named = arguments.split or split_name(str(arguments.real))[1]
        reference = "train" if named == "train" else "validation"
        protocol = EvaluationProtocol(
            "custom", _measures(arguments.metrics, features), reference=reference
        )
    else:
        if arguments.metrics is not None:
            raise UserError("--metrics goes with --features; a preset says what is measured")
        tree, file = read_preset(arguments.preset)
        protocol = protocol_from(tree, str(file))
        if GIVEN in protocol.networks and features is None:
            raise UserError(
                f"--preset {arguments.preset} leaves the feature network to you: give --features, "
                "e.g. runs/laptop-features (configs/laptop/features.yaml trains it)"
            )
    if arguments.resize not in (None, protocol.resize):
        protocol = dataclasses.replace(
            protocol, resize=arguments.resize, name=f"{protocol.name}, resize {arguments.resize}"
        )
    return protocol


def _measures(names: str | None, features: str) -> list[Measure]:
    if names is None:
        usual = [*USUAL, *(["inception_score"] if features == "inception" else [])]
        return [MEASURES[name] for name in usual]
    found: list[Measure] = []
    for name in metric_names(names):
        found += [MEASURES[name]] if MEASURES[name] not in found else []
    return found


@dataclasses.dataclass(frozen=True)
class Networks:
    """The feature networks of a protocol.

    Attributes:
        protocol: with the networks that the command line asks for.
        networks: by name, in eval mode on the device.
        embed_texts: their text halves, by the same names, as far as a metric needs them.
        remarks: what of the protocol they cannot do.
    """

    protocol: EvaluationProtocol
    networks: dict[str, Network]
    embed_texts: dict[str, Callable[[Sequence[str]], Tensor]]
    remarks: list[str]


def load_networks(arguments: argparse.Namespace, protocol: EvaluationProtocol) -> Networks:
    """Load the networks that a protocol and the options name.

    Raises:
        UserError: one is unknown, or its weights are absent or of another network.
    """
    names = [arguments.features] if arguments.features else protocol.networks
    weights = _weights(arguments.weights, names)
    networks: dict[str, Network] = {}
    for name in names:
        loaded = load_network(name, weights.get(name), protocol.resize, arguments.trust)
        networks[name] = loaded.to(arguments.device)
    remarks: list[str] = []
    if arguments.features:
        name = arguments.features
        protocol, left_out = protocol.with_network(name, networks[name].outputs)
        remarks = [f"not measured: {what}, which {name} has no output for" for what in left_out]
    texts: dict[str, Callable[[Sequence[str]], Tensor]] = {}
    for measure in protocol.measures:
        kind, _, arch = measure.network.partition(":")
        if measure.metric == "clip_score" and kind == "clip" and measure.network not in texts:
            from ldm.evaluation.networks.clip import clip_texts

            half = clip_texts(arch, weights.get(measure.network)).to(arguments.device)
            texts[measure.network] = half
    return Networks(protocol, networks, texts, remarks)


def load_network(
    name: str, weights: str | Path | None = None, resize: str = NETWORK, trust: bool = False
) -> Network:
    """The network of --features, on the CPU: a published one, that of a run, a class of one's own.

    Args:
        name: of the network, of a run or of a class.
        weights: of a published network, or of a class.
        resize: how images come to its size.
        trust: of the config of a run, as for ``ldm.load.load_model``.

    Raises:
        UserError: there is none of this name, or it is no feature network.
    """
    if Path(name).exists():
        if weights is not None:
            raise UserError(f"--weights {weights}: {name} has weights of its own; leave it out")
        source = locate(name, trust=trust)
        size, file = source.config().get("image_size"), str(source.weights_file())
        model = source.model()
        say_weights(source, f"weights of --features {name}")
        return own_network(model, resize, size if isinstance(size, int) else None, file)
    if "." in name and ":" not in name:
        params = {} if weights is None else {"weights": weights}
        return own_network(instantiate({"target": name, "params": params}, "--features"), resize)
    check_features(name)
    return network(name, weights, resize)


def _weights(given: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """File of weights by network."""
    found = {}
    for item in given:
        name = next((name for name in names if item.startswith(f"{name}=")), None)
        file = item if name is None else item.removeprefix(f"{name}=")
        if name is None and ("=" not in item or Path(item).is_file()):
            if len(names) > 1:
                raise UserError(
                    f"--weights {item}: say of which network, {names[0]}=FILE or {names[1]}=FILE"
                )
            name = names[0]
        if name is None:
            raise UserError(f"--weights {item}: the networks are {', '.join(names)}")
        found[name] = file
    return found
