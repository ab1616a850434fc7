"""Make images of layouts: boxes with classes, read from a JSON file."""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Sequence

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ldm.cli.app import say
from ldm.cli.conditions import find_conditioner
from ldm.cli.images import MOST_ROWS, result_files, result_names
from ldm.cli.outputs import generate
from ldm.cli.sampling import SamplingSession
from ldm.conditioners.layout import LayoutTransformer
from ldm.data.layouts.boxes import TOKENS_PER_BOX, BoxTokenizer
from ldm.data.layouts.reading import FLAGS, Layout, read_class_names, read_layouts
from ldm.errors import UserError
from ldm.visualization.conditions import draw_layout
from ldm.visualization.figure import SMALLEST, Cell, Row, save_rows


def run(options: argparse.Namespace) -> None:
    """Read the layouts, sample, and draw them beside the samples."""
    names = read_class_names(options.classes) if options.classes else ()
    session = SamplingSession.load(options)
    conditioner = find_conditioner(session, LayoutTransformer, "a layout")
    max_objects = objects_of(conditioner)
    count = options.num_classes or configured(session.config, "num_classes")
    layouts, names = read_layouts(options.layouts, names, count, max_objects)
    tokenizer = box_tokenizer(session.config, conditioner, len(names), count)
    tokens = [tokens_of(layout, tokenizer) for layout in layouts]
    requests = [k for k in range(len(layouts)) for _ in range(options.per_layout)]

    def make(indices: Sequence[int], seeds: Sequence[int]) -> Tensor:
        batch = {conditioner.key: torch.stack([tokens[requests[i]] for i in indices])}
        return session.images(batch, seeds)

    records = [
        {"file": result, **describe(layout)}
        for name, layout in zip(file_names(layouts), layouts, strict=True)
        for result in result_files(name, options.per_layout, numbered=True)
    ]
    about = dataclasses.asdict(tokenizer) | {"classes": list(names)}
    generate(session, make, records, columns=options.per_layout, settings={"box_tokens": about})
    if session.processes.first:
        draw(session, layouts[:MOST_ROWS], names, [str(record["file"]) for record in records])


def objects_of(conditioner: LayoutTransformer) -> int:
    """Objects of a layout, whose tokens and the two of the crop fill the sequence."""
    objects, rest = divmod(conditioner.transformer.length - 2, TOKENS_PER_BOX)
    if objects < 1 or rest:
        raise UserError(
            f"this model reads {conditioner.transformer.length} tokens, but n objects and a crop "
            f"are {TOKENS_PER_BOX} n + 2"
        )
    return objects


def box_tokenizer(
    config: DictConfig, conditioner: LayoutTransformer, names: int, count: int | None
) -> BoxTokenizer:
    """The encoding that the model was trained with, as far as its config and the names tell.

    Args:
        config: of the model; ``box_tokens`` may hold num_classes and flags.
        conditioner: its sizes are those of the tokens.
        names: number of names of classes, 0 if they are not known.
        count: number of classes of the config or the command line, if they say.
    """
    if count and names and count != names:
        raise UserError(f"{names} class names, but the model was trained with {count} classes")
    classes = count or names
    if not classes:
        raise UserError(
            "nobody says how many classes the model was trained with: give --classes FILE (a name "
            "a line), --num-classes N, or 'classes' in the JSON file"
        )
    flags = configured(config, "flags")
    objects, vocab_size = objects_of(conditioner), conditioner.vocab_size
    if flags is not None:
        return BoxTokenizer(classes, objects, vocab_size, flags=bool(flags))
    try:
        return BoxTokenizer(classes, objects, vocab_size)
    except UserError:  # so many classes leave no room for flags
        return BoxTokenizer(classes, objects, vocab_size, flags=False)


def configured(config: DictConfig, key: str) -> int | None:
    """``box_tokens.KEY`` of a config; the number of classes may also stand at the top."""
    value = OmegaConf.select(config, f"box_tokens.{key}")
    if value is None and key == "num_classes":
        value = config.get(key)
    return None if value is None else int(value)


def tokens_of(layout: Layout, tokenizer: BoxTokenizer) -> Tensor:
    """The tokens of a layout; refuses flags that the encoding does not have."""
    flagged = [box for box in layout.boxes if any(getattr(box, flag) for flag in FLAGS)]
    if flagged and not tokenizer.flags:
        raise UserError(
            f"layout {layout.name}: this model was trained without the flags {', '.join(FLAGS)}: "
            "leave them out"
        )
    return tokenizer(layout.boxes, layout.crop)


def file_names(layouts: Sequence[Layout]) -> list[str]:
    """Names of files: those of the layouts, without what file systems do not like."""
    names = [re.sub(r"[^\w.-]", "_", layout.name) for layout in layouts]
    several = len(set(names)) < len(names)
    return [f"{k:05d}" for k in range(len(names))] if several else result_names(names)


def describe(layout: Layout) -> dict[str, object]:
    """A layout for samples.json."""
    return {
        "layout": layout.name,
        "objects": [dataclasses.asdict(box) for box in layout.boxes],
        "crop": list(layout.crop),
    }


def draw(
    session: SamplingSession, layouts: Sequence[Layout], names: Sequence[str], files: Sequence[str]
) -> None:
    """Write layouts.png."""
    height, width = session.size()
    scale = max(1, -(-2 * SMALLEST // max(height, width)))
    per_layout = session.options.per_layout
    rows = []
    for k, layout in enumerate(layouts):
        drawn = draw_layout(layout, (height * scale, width * scale), names)
        samples = files[k * per_layout : (k + 1) * per_layout]
        rows.append(
            Row(layout.name, [Cell(drawn), *(Cell(session.out / file) for file in samples)])
        )
    save_rows(rows, session.out / "layouts.png")
    say(f"layouts beside their images: {session.out / 'layouts.png'}")
