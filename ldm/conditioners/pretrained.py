"""Modules whose weights come from a file of their own, unless a checkpoint brings them first."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ldm.conditioners.base import Conditioner
from ldm.containers.tensors import read_tensors
from ldm.containers.zips import check_if_zip
from ldm.errors import CheckpointError, ConfigError, DamagedFileError
from ldm.files import reason, shown
from ldm.safe_pickle import load_inert, load_plain


class PretrainedModule(nn.Module):
    """A network that is built empty and filled when it is first needed.

    A checkpoint that is loaded before brings the weights, and the file is never asked for: to load
    a trained model, to resume or to fine-tune, nothing but its checkpoint has to be there.

    Args:
        read: reads the weights, by their names in this module; None: there is no file, and the
            weights stay random if no checkpoint brings any.
    """

    def __init__(self, read: Callable[[], Mapping[str, Tensor]] | None) -> None:
        super().__init__()
        self._read = read

    def fill(self) -> None:
        """Read the weights unless they are here; on the meta device there is nothing to fill.

        Raises:
            CheckpointError: the file is missing, damaged or of another network.
        """
        if self._read is None or any(p.is_meta for p in self.parameters()):
            return
        weights, expected = self._read(), self.state_dict()
        odd = sorted(weights.keys() ^ expected.keys())
        odd += [k for k in expected if k in weights and weights[k].shape != expected[k].shape]
        if odd:
            raise CheckpointError(
                f"pretrained weights do not fit {type(self).__name__}: {len(odd)} are missing, "
                f"surplus or of another shape, first {', '.join(odd[:3])}; choose the "
                "architecture that belongs to the file"
            )
        self.load_state_dict(weights)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        own = self.state_dict()
        # A loader fills up what a file lacks with the module's own values: these bring nothing.
        given = [name for name in own if prefix + name in state_dict]
        brought = [n for n in given if state_dict[prefix + n].data_ptr() != own[n].data_ptr()]
        if len(brought) == len(own):
            self._read = None
        elif brought and self._read is not None:  # a few only: the others come from the file
            self.fill()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def freeze_pretrained(
    conditioner: Conditioner, network: PretrainedModule, source: str | None, in_checkpoint: bool
) -> None:
    """Let a conditioner learn no more; fill its network now if no checkpoint will bring weights.

    Raises:
        ConfigError: neither a file (``source``) nor checkpoints are to hold the weights.
        CheckpointError: see :meth:`PretrainedModule.fill`.
    """
    if source is None and not in_checkpoint:
        raise ConfigError(
            f"in_checkpoint=False of {conditioner.key!r} needs pretrained weights: give the path"
        )
    conditioner.freeze(in_checkpoint)
    if not in_checkpoint:
        network.fill()


def read_weights(file: Path) -> dict[str, Tensor]:
    """Tensors by name of a ``.safetensors`` file or a pickle of torch; runs no code from it.

    Raises:
        CheckpointError: it is damaged or holds no weights.
    """
    try:
        if file.suffix == ".safetensors":
            return read_tensors(file).tensors
        check_if_zip(file)
    except OSError as error:
        raise CheckpointError(f"{shown(file)} cannot be read: {reason(error)}") from error
    except DamagedFileError as error:
        raise CheckpointError(f"{error}; fetch or make it anew") from error
    try:
        content = load_plain(file)
    except pickle.UnpicklingError:
        content = load_inert(file)
    state = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    weights = {str(k): v for k, v in state.items() if isinstance(v, Tensor)}
    if not weights:
        raise CheckpointError(f"{file} holds no weights")
    return {key.removeprefix("module."): value for key, value in weights.items()}


def hub_file(repository: str, names: Sequence[str], advice: str) -> Path:
    """The first of several files of a repository of the Hugging Face hub; its cache comes first.

    Args:
        repository: such as ``openai/clip-vit-large-patch14``.
        names: the files to try, in this order.
        advice: what to do where neither cache nor hub has one, for the error.

    Raises:
        CheckpointError: there is none.
    """
    import huggingface_hub

    cause: Exception | None = None
    for local in (True, False):
        for name in names:
            try:
                return Path(
                    huggingface_hub.hf_hub_download(repository, name, local_files_only=local)
                )
            except (OSError, ValueError) as error:
                cause = error
    raise CheckpointError(
        f"no {' or '.join(names)} of {repository!r} here or on the hub: {advice}"
    ) from cause
