"""Files with the weights of published feature networks: found, never downloaded, fingerprinted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ldm.errors import CheckpointError


@dataclass(frozen=True)
class PublishedWeights:
    """A file that everybody uses, so that numbers can be compared.

    Attributes:
        network: whose weights they are.
        file: name of the file.
        sha256: what its digest begins with; "" if the publishers do not say.
        source: where it comes from.
    """

    network: str
    file: str
    sha256: str
    source: str

    def find(self, weights: str | Path | None) -> Path:
        """Path of the file, or of what stands in for it.

        Args:
            weights: path that somebody named; None = PyTorch's folder of downloaded checkpoints.

        Raises:
            CheckpointError: nothing is there.
        """
        place = Path(torch.hub.get_dir(), "checkpoints", self.file)
        path = place if weights is None else Path(weights).expanduser()
        if not path.is_file():
            digest = f" (sha256 {self.sha256}...)" if self.sha256 else ""
            raise CheckpointError(
                f"{self.network} weights '{path}' are absent: take {self.file}{digest} from "
                f"{self.source} and place it there, or name it: --weights PATH of a script, "
                "weights in a config"
            )
        return path

    def remark(self, sha256: str) -> str:
        """What must be said of a file with this digest: nothing if it is the published one."""
        if not self.sha256 or sha256.startswith(self.sha256):
            return ""
        return (
            f"not the published weights of {self.network}: sha256 {sha256[:8]}, not {self.sha256}"
        )
