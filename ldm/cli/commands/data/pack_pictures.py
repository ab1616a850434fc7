"""Pack captioned pictures into shards to train on, and hold some of what they show out.

Examples:
  python scripts/pack_pictures.py emoji-datasource-google-16.0.0.tgz --out data/emoji
  python scripts/pack_pictures.py emoji.tar --out data/emoji
  python scripts/pack_pictures.py photos --out data/photos --held-out 0.1

SOURCE is a package of npm (emoji-datasource-google, -twitter, ...: the .tgz of npm pack, or the
folder it unpacks to), a shard of a WebDataset (KEY.png, KEY.txt, perhaps KEY.json) or a folder of
them, or a folder of images with captions (NAME.txt beside NAME.png, or a metadata.jsonl; a
sub-folder for each class).

Names are held out, not pictures: all skin tones of an emoji are in training or none is. Which ones
follows from a hash of the name. OUT gets
  train/one.tar       pictures of names that have one picture: KEY.png, .txt, .json, .cls
  train/several.tar   pictures of names that have several
  held-out/all.tar    pictures of the names that are held out
  classes.txt         the class of each id in KEY.cls: sub-categories of emoji, or sub-folders
  vocab.txt           the words of the training captions, for ldm.conditioners.BertTokenizer
  pictures.json       what was packed; written last
A call that was killed is repeated as it was. A folder of other pictures is never overwritten.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ldm.cli.options.common import check_out_folder, new_parser
from ldm.errors import UserError

RECORD = "pictures.json"
"""What was packed, in OUT."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the program."""
    options = _parser().parse_args(arguments)
    if not 0 < options.held_out < 1:
        raise UserError(f"--held-out {options.held_out}: is a share, such as 0.05")
    check_out_folder("--out", options.out)
    return options


def check_files(options: argparse.Namespace) -> None:
    """Refuse pictures that are not there, and a folder that holds something else.

    Raises:
        UserError: it names them.
    """
    if not options.source.exists():
        raise UserError(f"{options.source}: no such file or folder")
    out: Path = options.out
    left = [path.name for path in out.iterdir()] if out.is_dir() else []
    known = ("train", "held-out", "classes.txt", "vocab.txt", RECORD)
    strange = sorted(name for name in left if name not in known and not name.startswith("."))
    if strange:
        raise UserError(f"--out {out}: holds other files ({strange[0]}); name another folder")


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("pack_pictures", __doc__)
    parser.add_argument("source", type=Path, metavar="SOURCE", help="the pictures")
    parser.add_argument("--out", type=Path, required=True, help="folder of the shards")
    parser.add_argument(
        "--held-out", type=float, default=0.05, help="share of the names (default: 0.05)"
    )
    return parser
