"""Films: frames in, an animated GIF or an mp4 out."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ldm.errors import UserError
from ldm.files import shown, temporary_beside, write_atomically

SUFFIXES = (".gif", ".mp4")


def check_film(path: Path, fps: float) -> None:
    """Refuse, before any work is done, a film that could not be written.

    Raises:
        UserError: another suffix than .gif or .mp4, no writer for mp4, or no frames per second.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{shown(path)}: a film is a .gif or an .mp4")
    if path.suffix == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise UserError(
            f"{shown(path)}: mp4 needs imageio-ffmpeg: pip install 'ldm[film]', or name a .gif"
        )
    if not 0 < fps <= 100:
        raise UserError(f"{fps:g} frames per second: must be above 0 and at most 100")


def write_film(frames: Iterable[np.ndarray], path: Path, fps: float, hold: float = 0.0) -> None:
    """Write frames, uint8 (H, W, 3) of one size, complete or not at all.

    Args:
        frames: taken one by one; an mp4 never holds more than one of them in memory.
        path: .gif or .mp4.
        fps: frames per second; a GIF counts hundredths of a second.
        hold: seconds for which the last frame stays.

    Raises:
        UserError: see ``check_film``; there are no frames.
    """
    check_film(path, fps)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gif":
        _write_gif(frames, path, fps, hold)
    else:
        _write_mp4(frames, path, fps, hold)


def _write_gif(frames: Iterable[np.ndarray], path: Path, fps: float, hold: float) -> None:
    pictures = [Image.fromarray(frame).quantize(128) for frame in frames]
    if not pictures:
        raise UserError(f"{shown(path)}: a film needs at least one frame")
    durations = [max(20, round(1000 / fps))] * len(pictures)
    durations[-1] += round(1000 * hold)
    first, *others = pictures
    write_atomically(
        path,
        lambda file: first.save(
            file, format="GIF", save_all=True, append_images=others, duration=durations, loop=0
        ),
    )


def _write_mp4(frames: Iterable[np.ndarray], path: Path, fps: float, hold: float) -> None:
    import imageio_ffmpeg

    # absolute, since ffmpeg takes what stands before a colon for a protocol
    temporary = temporary_beside(path.absolute())
    writer = None
    try:
        for frame in _held(frames, round(hold * fps)):
            even = _even_sides(frame)
            if writer is None:
                size = (even.shape[1], even.shape[0])
                writer = imageio_ffmpeg.write_frames(
                    str(temporary),
                    size,
                    fps=fps,
                    macro_block_size=2,
                    quality=8,
                    output_params=["-f", "mp4"],
                )
                writer.send(None)
            writer.send(np.ascontiguousarray(even))
        if writer is None:
            raise UserError(f"{shown(path)}: a film needs at least one frame")
        writer.close()
        os.replace(temporary, path)
    finally:
        if writer is not None:
            writer.close()  # ffmpeg writes until it is told to stop
        temporary.unlink(missing_ok=True)


def _held(frames: Iterable[np.ndarray], times: int) -> Iterator[np.ndarray]:
    frame = None
    for frame in frames:
        yield frame
    for _ in range(times if frame is not None else 0):
        yield frame  # type: ignore[misc]


def _even_sides(frame: np.ndarray) -> np.ndarray:
    """The codec takes even sides only: repeat the last row or column where need be."""
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
