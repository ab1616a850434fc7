from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from ldm.visualization.curves import draw_curves


def test_labels_keep_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the curves and inside the picture, whatever is logged."""
    kept: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *arguments: Any, **options: Any) -> None:
        save(figure, *arguments, **options)
        kept.append(figure)

    monkeypatch.setattr(Figure, "savefig", keep)
    values = {"a_loss": 1.009, "b_loss": 0.05, "c_loss": 600.0, "lr": 0.00175, "logits": -0.185}
    lines = (
        {"step": 100 * k, **{f"train/{name}": x * (1 + k / 900) for name, x in values.items()}}
        for k in range(9)
    )
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    (figure,) = kept
    frames = [axes.get_window_extent() for axes in figure.axes]
    assert len(frames) == len(values)
    for axes in figure.axes:
        ticks = [*axes.get_yticklabels(), *axes.get_yticklabels(minor=True)]
        low, high = axes.get_window_extent().y0, axes.get_window_extent().y1
        shown = [label.get_window_extent() for label in ticks if label.get_text()]
        shown = [box for box in shown if low <= (box.y0 + box.y1) / 2 <= high]
        assert shown
        for box in shown:
            assert box.x0 >= 0
            assert not any(box.overlaps(frame) for frame in frames)
