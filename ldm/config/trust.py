"""What a config may call that came together with weights, from whomever.

A ``target`` of a config is called when it is built, so that a config is a program. Those that users
write, and give to a program by name, are their own. One that lies beside weights (the
``config.yaml`` of a run, of an exported or published folder) may be anybody's: it is marked when it
is read, and ``instantiate`` refuses what it names, before anything is built, unless each name is a
part of models, data or tasks of this library or on the list of harmless ones of PyTorch. Names are
compared as text, in the forms that packages publish; nothing is imported to judge them. With
``trust=True``, ``--trust`` or ``LDM_TRUST=1`` in the environment it is not marked.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ldm.compat.compvis import config as compvis
from ldm.compat.moved import MOVED, current_name
from ldm.config.paths import at, join, parts_of
from ldm.errors import ConfigError
from ldm.files import shown

VARIABLE = "LDM_TRUST"
"""Of the environment: 1 trusts every config, as on a computer that sees nobody else's."""
WEIGHTS = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")
"""Endings of files of weights, ``ldm.checkpoint.SUFFIXES``."""
REMEDY = f"--trust (in Python trust=True, for good {VARIABLE}=1 in the environment)"
_PACKAGES = (
    *("autoencoders", "conditioners", "denoisers", "diffusion", "losses", "samplers", "data"),
    *("training", "evaluation", "load"),
)
_ONLY = {
    "training": (
        *("AutoencoderTask", "ClassifierTask", "FeatureTask", "LatentDiffusionTask", "DataModule"),
        *("Constant", "CosineCycles", "LinearCycles", "WarmupCosine", "LRPerSample", "Muon"),
        *("EMA", "EMACallback"),
    ),
    "evaluation": ("ClassFeatures", "FeatureNetwork", "SceneFeatures"),
    "load": ("pretrained",),
}
"""Of these packages only some names: others read configs, write files or begin to train."""
_TORCH = {
    "torch.optim": (
        "ASGD Adadelta Adafactor Adagrad Adam AdamW Adamax LBFGS Muon NAdam RAdam RMSprop Rprop "
        "SGD SparseAdam"
    ),
    "torch.optim.lr_scheduler": (
        "ConstantLR CosineAnnealingLR CosineAnnealingWarmRestarts CyclicLR ExponentialLR LinearLR "
        "MultiStepLR OneCycleLR PolynomialLR ReduceLROnPlateau StepLR"
    ),
    "torch.nn": (
        "Identity Linear Embedding Flatten Sequential ModuleList MultiheadAttention "
        "Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d "
        "BatchNorm1d BatchNorm2d BatchNorm3d GroupNorm LayerNorm RMSNorm "
        "InstanceNorm1d InstanceNorm2d InstanceNorm3d Dropout Dropout2d Dropout3d "
        "AvgPool2d MaxPool2d AdaptiveAvgPool2d AdaptiveMaxPool2d Upsample PixelShuffle "
        "CELU ELU GELU GLU Hardsigmoid Hardswish Hardtanh LeakyReLU LogSigmoid Mish PReLU ReLU "
        "ReLU6 SELU SiLU Sigmoid Softmax Softplus Softsign Tanh "
        "BCEWithLogitsLoss CrossEntropyLoss HuberLoss L1Loss MSELoss SmoothL1Loss"
    ),
}
_MOST = 100_000
"""Nodes that a config may have, references to others written out."""
_ADDRESS = re.compile(r"pipe:|^\s*[a-z][a-z0-9+.-]*:", re.IGNORECASE)
"""What opens more than a file: a command, or something in the network."""
_SELECT = r"oc\.select\s*:\s*[\w.]+\s*(,\s*[\w.+-]*\s*)?\}"
_ENV = r"oc\.env\s*:\s*\w+\s*(,[^{}\[\]$]*)?\}"
_RESOLVER = re.compile(rf"\$\{{(?!\s*{_SELECT})[^:{{}}$]*:|\$\{{[^:}}]*\$\{{")
"""A reference to more than another key, or to what only another reference names."""
_DECODED = rf"oc\.decode\s*:\s*\$\{{\s*{_ENV}\s*\}}"
_MAKER = re.compile(
    rf"\$\{{(?!\s*({_SELECT}|{_ENV}|{_DECODED}))[^:{{}}$]*:|\$\{{[^:}}]*\$\{{.*:", re.DOTALL
)
"""A reference that may make mappings: these are no part of the config, and carry no mark."""
_PRETRAINED = "ldm.load.pretrained"
_FOREIGN, _FILE = "foreign", "file "
_building: ContextVar[bool] = ContextVar("building a marked config", default=False)


class UntrustedError(ConfigError):
    """A config that lies beside weights, and asks for more than parts of this library."""


def lies_beside_weights(file: Path, checkpoint: str | Path | None = None) -> bool:
    """Whether a config is that of a run, or in the folder of weights.

    Args:
        file: the config.
        checkpoint: the weights it is used with, whatever their name ends in.
    """
    folders = {file.parent.resolve(), file.resolve().parent}  # of a link both
    if checkpoint is not None and Path(checkpoint).parent.resolve() in folders:
        return True
    return any(_holds_weights(folder) for folder in folders)


def _holds_weights(folder: Path) -> bool:
    try:
        names = os.listdir(folder)
    except OSError:
        return False
    return "checkpoints" in names or any(name.endswith(WEIGHTS) for name in names)


def mark_foreign(config: DictConfig, file: Path, trust: bool = False) -> DictConfig:
    """Let ``instantiate`` refuse what no foreign config may call, in all parts of this one.

    Args:
        config: as read.
        file: from where, for messages.
        trust: whether the user vouches for it; then nothing is marked.

    Raises:
        UntrustedError: a reference in it may make parts that would not be marked.
    """
    if not (trust or os.environ.get(VARIABLE) == "1"):
        config._set_flag([_FOREIGN, f"{_FILE}{shown(file)}"], [True, True])
        _refuse_makers(config, file)
    return config


def _refuse_makers(config: DictConfig, file: Path) -> None:
    tree: Any = OmegaConf.to_container(config, resolve=False)
    for text in filter(_MAKER.search, _references(tree)):
        raise _with_remedy(
            shown(file), f"{text[:200]!r} refers to more than other keys, and may make parts"
        )


def mark_if_beside(
    config: DictConfig,
    items: Iterable[str | Path],
    trust: bool = False,
    checkpoint: str | Path | None = None,
) -> DictConfig:
    """Mark a config that was read from files of which one lies beside weights.

    Args:
        config: as read.
        items: the files; what is none, as an override, is passed over.
        trust: as for ``mark_foreign``.
        checkpoint: as for ``lies_beside_weights``.
    """
    for file in map(Path, items):
        if file.is_file() and lies_beside_weights(file, checkpoint):
            return mark_foreign(config, file, trust)
    return config


def is_foreign(node: Any) -> bool:
    """Whether a node is part of a config that was marked."""
    return OmegaConf.is_config(node) and bool(node._get_flag(_FOREIGN))


@contextlib.contextmanager
def building(node: Any) -> Iterator[None]:
    """While a node of a marked config is built; see ``builds_foreign``."""
    token = _building.set(_building.get() or is_foreign(node))
    try:
        yield
    finally:
        _building.reset(token)


def builds_foreign() -> bool:
    """Whether a marked config is being built, so that files which it names are not the user's."""
    return _building.get()


def refuse_foreign(node: Any, path: str = "") -> None:
    """Refuse a node of a marked config that would call, or read, what such a config must not.

    Args:
        node: what is going to be built.
        path: where it stands; known of a part of a config.

    Raises:
        UntrustedError: it names target, place and file.
    """
    if not is_foreign(node):
        return
    flags = node._get_root()._metadata.flags or {}
    file = next((name.removeprefix(_FILE) for name in flags if name.startswith(_FILE)), "")
    try:
        _refuse_resolvers(node)
        _Walk().count(node, path or node._get_full_key(""))
    except RecursionError:
        raise UntrustedError(f"{at(file)}{at(path)}is nested too deeply") from None
    except UntrustedError as error:
        raise _with_remedy(file, error) from None


def _with_remedy(file: str, error: object) -> UntrustedError:
    return UntrustedError(
        f"{at(file)}{error}; it lies beside weights, so that anybody may have written it: if "
        f"you trust those who have, give {REMEDY}"
    )


class _Walk:
    """All nodes below one, each looked at once, with its size when references are written out."""

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}
        self._visited: list[Any] = []
        """Kept, for an address stands for a node only as long as that lives."""

    def count(self, node: Any, path: str) -> int:
        """Number of nodes; raises at the first that is not allowed."""
        if not OmegaConf.is_config(node):
            return self._look(node, path)
        if id(node) not in self._sizes:
            self._visited.append(node)
            self._sizes[id(node)] = 0
            self._sizes[id(node)] = self._look(node, path)
        if not self._sizes[id(node)]:
            raise UntrustedError(f"{path}: is a part of itself")
        return self._sizes[id(node)]

    def _look(self, node: Any, path: str) -> int:
        if isinstance(node, str) and "${" in node:  # what would refer once it is copied
            raise UntrustedError(f"{path}: {node[:200]!r} is a reference in disguise")
        name = _value(node, "target") if _is_mapping(node) else None
        if compvis.is_published(name):
            plain: Any = node
            if OmegaConf.is_config(node):
                plain = OmegaConf.to_container(node, resolve=True)
            return self._look(compvis.translate(plain, path), path)
        if name is not None:
            _refuse_target(name, _value(node, "params"), path)
        total = 1 + sum(self.count(child, place) for child, place in _children(node, path))
        if total > _MOST:
            raise UntrustedError(f"{path}: has more than {_MOST} parts")
        return total


def _is_mapping(node: Any) -> bool:
    return isinstance(node, (Mapping, DictConfig))


def _value(node: Any, key: Any) -> Any:
    """A value; None for what cannot be resolved, as whoever builds it will say."""
    try:
        return node[key] if not _is_mapping(node) or key in node else None
    except OmegaConfBaseException:
        return None


def _children(node: Any, path: str) -> Iterator[tuple[Any, str]]:
    """The values of a mapping or list, and their places."""
    if _is_mapping(node):
        for key in node:
            yield _value(node, key), join(path, str(key))
    elif isinstance(node, (list, tuple, ListConfig)):
        for index in range(len(node)):
            yield _value(node, index), f"{path}[{index}]"


def _refuse_target(name: Any, params: Any, path: str) -> None:
    public = allowed_names().get(current_name(name)) if isinstance(name, str) else None
    if public is None:
        raise UntrustedError(
            f"{join(path, 'target')}: {str(name)[:200]} is no part of models, data or training of "
            "this library"
        )
    if not _is_mapping(params):
        return
    if public == _PRETRAINED and _value(params, "trust") not in (None, False):
        raise UntrustedError(f"{join(path, 'params.trust')}: is not for a config to say")
    if public.startswith("ldm.data."):
        _refuse_addresses(params, join(path, "params"), anywhere="Shard" in public)


def _refuse_addresses(node: Any, path: str, anywhere: bool) -> None:
    """Refuse a text, at any depth, that reads like a command or an address.

    Args:
        node: arguments of a data set.
        path: their place.
        anywhere: refuse any colon, for shards take patterns that may hide the rest.
    """
    for value, place in _children(node, path):
        if isinstance(value, str):
            if _ADDRESS.search(value) or (anywhere and ":" in value):
                raise UntrustedError(f"{place}: {value[:200]!r} is a command or an address")
        elif not (_is_mapping(value) and "target" in value):  # which is looked at as such
            _refuse_addresses(value, place, anywhere)


def _refuse_resolvers(node: Any) -> None:
    """Refuse references to the environment and the like in all that a node refers to."""
    raw: Any = OmegaConf.to_container(node._get_root(), resolve=False)
    parts = raw if isinstance(raw, dict) else {"": raw}
    texts = {str(key): list(_references(value)) for key, value in parts.items()}
    waiting = parts_of(node._get_full_key(""))[:1] or list(texts)
    seen: set[str] = set()
    times = 1
    while waiting:
        key = waiting.pop()
        if key in seen:
            continue
        seen.add(key)
        for text in texts.get(key, ()):
            if _RESOLVER.search(text):
                raise UntrustedError(f"{key}: {text[:200]!r} refers to more than other keys")
            times *= text.count("${")
            if times > _MOST:
                raise UntrustedError(f"{key}: its references make too long a text")
            waiting += [name for name in texts if name in text]


def _references(tree: Any) -> Iterator[str]:
    """The texts of plain values that refer to something."""
    if isinstance(tree, dict):
        for value in tree.values():
            yield from _references(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _references(value)
    elif isinstance(tree, str) and "${" in tree:
        yield tree


@functools.cache
def allowed_names() -> dict[str, str]:
    """What any config may name: by each form of its dotted name the public one."""
    names = {f"{module}.{name}": "" for module in _TORCH for name in _TORCH[module].split()}
    names |= {name: name for name in MOVED.values() if name.startswith("ldm.data.super_res")}
    names |= {name: name for name in MOVED.values() if name.startswith("ldm.evaluation.networks.")}
    for package in _PACKAGES:
        chosen = _ONLY.get(package)
        for name, module in _published(package).items():
            if chosen is None or name in chosen:
                public = f"ldm.{package}.{name}"
                names |= {public: public, f"{module}.{name}": public}
    return names


def _published(package: str) -> dict[str, str]:
    """The public names of a package of this library, and in which modules they are defined."""
    file = Path(__file__).parents[1] / package / "__init__.py"
    found: dict[str, str] = {}
    for statement in ast.parse(file.read_bytes()).body:
        if isinstance(statement, ast.ImportFrom):
            found |= {alias.name: str(statement.module) for alias in statement.names}
    return found
