"""Where the parts of a run lie, and what is recorded about it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm.config import write_atomically


@dataclass(frozen=True)
class RunFolder:
    """Where the parts of a run lie.

    Args:
        path: the folder, ``runs/<name>``.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.path / "config.yaml"

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def metrics(self) -> Path:
        """All logged numbers, a JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def curves(self) -> Path:
        """The loss curves as a picture."""
        return self.path / "curves.png"

    @property
    def samples(self) -> Path:
        """Picture grids drawn during training."""
        return self.path / "samples"

    def status(self) -> dict[str, Any]:
        """What ``status.json`` says: state, step, seconds, and hashes of what the run builds on."""
        file = self.path / "status.json"
        return json.loads(file.read_text()) if file.exists() else {}

    def write_status(self, **values: Any) -> None:
        """Update ``status.json`` in one move."""
        text = json.dumps(self.status() | values, indent=2) + "\n"
        write_atomically(self.path / "status.json", lambda file: file.write(text.encode()))

    @property
    def complete(self) -> bool:
        """True once training reached its last step."""
        return self.status().get("state") == "complete"
