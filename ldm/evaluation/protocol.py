"""A protocol: everything beside the images that decides what an evaluation's numbers are."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ldm.errors import ConfigError
from ldm.evaluation.metrics.registry import METRICS, NOTHING, Metric

GIVEN = "given"
"""Network of a protocol that leaves the choice to its user."""
NETWORK_RESIZE = "network"
"""The resizer that belongs to the feature network itself."""
USUAL_OUTPUT = "pool"
"""Output of published networks in whose place the first one of another network may stand."""
REFERENCES = ("train", "validation", "file")
LABEL_POLICIES = ("uniform", "data", "any")

T = TypeVar("T")


@dataclass(frozen=True)
class Measure:
    """One metric on one output of one feature network.

    Attributes:
        metric: a name of ``METRICS``.
        network: as ``ldm.evaluation.network`` knows it, or ``given``.
        output: of the network; None = the metric's default, else the network's first.
        prefix: before the name of its numbers: ``s`` makes sfid of fid.
        params: parameters of the metric that are not its defaults.
    """

    metric: str
    network: str = GIVEN
    output: str | None = None
    prefix: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ConfigError(f"metric {self.metric!r}{_known(self.metric, METRICS)}")
        for key in self.params:
            if key not in self.definition.params:
                raise ConfigError(
                    f"metric {self.metric}: parameter {key!r}{_known(key, self.definition.params)}"
                )

    @property
    def definition(self) -> Metric:
        """What the metric is."""
        return METRICS[self.metric]

    @property
    def all_params(self) -> dict[str, Any]:
        """The parameters, defaults included."""
        return {**self.definition.params, **self.params}

    @property
    def note(self) -> str:
        """The parameters that a reader of its numbers must know."""
        return ", ".join(f"{key}={self.all_params[key]}" for key in self.definition.shown)

    def output_of(self, outputs: Iterable[str]) -> str:
        """Which of the outputs of its network it looks at.

        Raises:
            ConfigError: there is none of this name.
        """
        names = list(outputs)
        name = self.output or self.definition.output or names[0]
        if name not in names:
            raise ConfigError(
                f"metric {self.metric} needs {name!r} of the network {self.network}, which gives "
                f"{', '.join(names)}"
            )
        return name


@dataclass(frozen=True)
class SmallSamples:
    """What is shown beside Fréchet distances of few fake images, which are biased upwards.

    Each distance that it needs takes as long as the distance itself.

    Attributes:
        below: fewer fake images than this are few.
        sizes: subset sizes whose distances are shown, as shares of the fake images.
        repeats: random subsets of each size.
        points: subset sizes from which the limit of infinitely many images is extrapolated.
        bootstrap: resamples for the confidence interval.
    """

    below: int = 10_000
    sizes: Sequence[float] = (0.25, 0.5)
    repeats: int = 3
    points: int = 10
    bootstrap: int = 20

    def __post_init__(self) -> None:
        if not all(0 < share < 1 for share in self.sizes):
            raise ConfigError(f"sizes {list(self.sizes)} are not shares between 0 and 1")
        if self.repeats < 1 or self.points < 3 or self.bootstrap < 2:
            raise ConfigError("repeats must be at least 1, points 3, bootstrap 2")


@dataclass(frozen=True)
class EvaluationProtocol:
    """How samples are to be measured.

    Attributes:
        name: what a report calls it.
        measures: the numbers.
        about: what it is, in plain words.
        resize: how images come to the size of the network: ``network`` (its own way), or a name of
            ``ldm.evaluation.networks.resizing``.
        num_fake: how many generated images the published numbers are of; None = any.
        num_real: how many real ones; None = all.
        labels: which conditions the samples must have: ``uniform`` (every class equally often),
            ``data`` (as the real images) or ``any``.
        reference: the real images: ``train`` or ``validation`` (of the run that made the samples,
            through its transform) or ``file`` (must be named).
        small_samples: what is shown beside distances of few images; None = nothing.
        remark: what a reader of the numbers should know.
    """

    name: str
    measures: Sequence[Measure]
    about: str = ""
    resize: str = NETWORK_RESIZE
    num_fake: int | None = None
    num_real: int | None = None
    labels: str = "any"
    reference: str = "validation"
    small_samples: SmallSamples | None = field(default_factory=SmallSamples)
    remark: str = ""

    def __post_init__(self) -> None:
        for key, choices in (("reference", REFERENCES), ("labels", LABEL_POLICIES)):
            value = getattr(self, key)
            if value not in choices:
                raise ConfigError(f"{key} {value!r} is none of {', '.join(choices)}")
        for key in ("num_fake", "num_real"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ConfigError(f"{key} {value} must be positive")

    @property
    def networks(self) -> list[str]:
        """The feature networks, each once."""
        return list(dict.fromkeys(measure.network for measure in self.measures))

    @property
    def needs_real(self) -> bool:
        """Whether any number is a comparison with real images."""
        return any(measure.definition.real != NOTHING for measure in self.measures)

    def with_network(
        self, name: str, outputs: Iterable[str]
    ) -> tuple[EvaluationProtocol, list[str]]:
        """The same with one network for all measures.

        Args:
            name: of the network.
            outputs: what it gives.

        Returns:
            The protocol, and the measures that it has no output for, which are left out.

        Raises:
            ConfigError: none is left.
        """
        names = list(outputs)
        kept, left_out = [], []
        for measure in self.measures:
            output = measure.output or measure.definition.output
            replaced = dataclasses.replace(measure, network=name)
            if measure.output == USUAL_OUTPUT and USUAL_OUTPUT not in names:
                replaced = dataclasses.replace(replaced, output=None)
            elif output not in (None, *names):
                left_out.append(f"{measure.prefix}{measure.metric}")
                continue
            kept.append(replaced)
        if not kept:
            raise ConfigError(f"{name} gives {', '.join(names)}: too little for {self.name}")
        others = set(self.networks) - {GIVEN, name}
        title = f"{self.name}, features {name}" if others else self.name
        return dataclasses.replace(self, name=title, measures=kept), left_out

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in its YAML file."""
        return dataclasses.asdict(self)


def protocol_from(tree: Mapping[str, Any], where: str) -> EvaluationProtocol:
    """The protocol of a YAML file.

    Args:
        tree: its content.
        where: its name, for messages.

    Raises:
        ConfigError: a key is unknown or missing, or a value is none.
    """
    try:
        values = dict(tree)
        measures = values.pop("measures", None)
        if not isinstance(measures, Sequence) or isinstance(measures, str) or not measures:
            raise ConfigError("measures: expected a list of metrics")
        values["measures"] = [
            _build(Measure, measure, f"measures[{k}]") for k, measure in enumerate(measures)
        ]
        if values.get("small_samples") is not None:
            values["small_samples"] = _build(SmallSamples, values["small_samples"], "small_samples")
        return _build(EvaluationProtocol, values, "")
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _build(kind: type[T], values: Any, place: str) -> T:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{place}: expected a mapping, got {values!r}")
    fields = {item.name: item for item in dataclasses.fields(kind)}  # type: ignore[arg-type]
    prefix = f"{place}." if place else ""
    for key in values:
        if key not in fields:
            raise ConfigError(f"{prefix}{key}: unknown key{_known(str(key), fields)}")
    for name, item in fields.items():
        optional = item.default is not dataclasses.MISSING
        optional = optional or item.default_factory is not dataclasses.MISSING
        if not optional and name not in values:
            raise ConfigError(f"{prefix}{name}: missing")
    try:
        return kind(**values)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}" if place else str(error)) from error
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        where = place or "the protocol"
        raise ConfigError(f"{where}: a value is of the wrong kind: {error}") from error


def _known(word: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(word, names, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f" is none of {', '.join(names) or 'any'}{hint}"
