"""Which CLIP embeds texts and pictures, and where the embeddings are kept."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_clip_options(parser: argparse.ArgumentParser) -> None:
    """The options that ``Clip`` and ``open_store`` take."""
    parser.add_argument(
        "--clip",
        default="ViT-L-14",
        metavar="NAME_OR_JSON",
        help="architecture of OpenCLIP, or a JSON file that describes one (default: ViT-L-14; with "
        "a file of OpenAI's own weights ViT-L-14-quickgelu)",
    )
    parser.add_argument(
        "--clip-weights",
        default="openai",
        metavar="FILE_OR_NAME",
        help="its weights: a file, or a name that OpenCLIP knows (default: openai)",
    )
    parser.add_argument(
        "--embeddings",
        type=Path,
        metavar="FILE",
        help="where the embeddings of the folder are kept (default: FOLDER.CLIP.safetensors)",
    )
