from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm.errors import UserError
from ldm.visualization.video import check_film, write_film


def frames(count: int = 5) -> Iterator[np.ndarray]:
    for k in range(count):
        frame = np.zeros((33, 48, 3), np.uint8)
        frame[:, : 8 * k + 8] = (255, 60, 0)
        yield frame


def test_gif(tmp_path: Path) -> None:
    write_film(frames(), tmp_path / "new" / "film.gif", fps=10, hold=1.5)
    film = Image.open(tmp_path / "new" / "film.gif")
    assert film.n_frames == 5
    durations, shares = [], []
    for k in range(5):
        film.seek(k)
        durations.append(film.info["duration"])
        shares.append((np.asarray(film.convert("RGB"))[..., 0] > 128).mean())
    assert durations == [100] * 4 + [1600]
    assert shares == pytest.approx([(8 * k + 8) / 48 for k in range(5)], abs=0.01)


def test_mp4(tmp_path: Path) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    write_film(frames(), tmp_path / "film.mp4", fps=10, hold=0.5)
    assert [file.name for file in tmp_path.iterdir()] == ["film.mp4"]
    reader = ffmpeg.read_frames(str(tmp_path / "film.mp4"))
    meta = next(reader)
    assert meta["size"] == (48, 34)  # even sides
    pictures = [np.frombuffer(data, np.uint8).reshape(34, 48, 3) for data in reader]
    assert len(pictures) == 10
    assert [(p[..., 0] > 128).mean() for p in pictures[:5]] == pytest.approx(
        [(8 * k + 8) / 48 for k in range(5)], abs=0.05
    )


@pytest.mark.parametrize("name", ["film.gif", "film.mp4"])
def test_nothing_half_written(tmp_path: Path, name: str) -> None:
    if name.endswith("mp4"):
        pytest.importorskip("imageio_ffmpeg")

    def broken() -> Iterator[np.ndarray]:
        yield from frames(2)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_film(broken(), tmp_path / name, fps=10)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="at least one frame"):
        write_film(iter(()), tmp_path / name, fps=10)
    assert list(tmp_path.iterdir()) == []


def test_mp4_without_its_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'ldm\[film\]', or name a .gif"):
        check_film(tmp_path / "film.mp4", 10)
