"""Make images from text with a text-conditional latent diffusion model."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ldm.cli.conditions import text_condition, warn_of_cuts
from ldm.cli.outputs import generate
from ldm.cli.sampling import SamplingSession
from ldm.config import instantiate
from ldm.diffusion.sampling import Denoise
from ldm.errors import UserError


def run(options: argparse.Namespace) -> None:
    """Read the prompts and sample."""
    session = SamplingSession.load(options)
    text = text_condition(session)
    negative = options.negative_prompt
    wanted: list[dict[str, Any]] = [{"prompt": prompt} for prompt in options.prompt]
    wanted += _of_data(session, "validation", options.validation_captions)
    wanted += _of_data(session, "train", options.train_captions)
    told = [entry["prompt"] for entry in wanted] + ([] if negative is None else [negative])
    warn_of_cuts(session, text.tokenizer, told)
    entries = [entry for entry in wanted for _ in range(options.per_prompt)]
    requests = [entry["prompt"] for entry in entries]

    def make(indices: Sequence[int], seeds: Sequence[int]) -> Tensor:
        batch = {text.key: text.tokenizer([requests[k] for k in indices])}
        if negative is None:
            return session.images(batch, seeds)
        unwanted = {text.key: text.tokenizer([negative] * len(indices))}
        return session.images(batch, seeds, guidance=1, guide=away_from(session, batch, unwanted))

    generate(
        session,
        make,
        entries,
        columns=options.per_prompt,
        settings={"negative_prompt": negative},
    )


def away_from(
    session: SamplingSession, batch: dict[str, Tensor], unwanted: dict[str, Tensor]
) -> Callable[[Denoise], Denoise]:
    """Guidance from the unwanted towards the wanted batch, in place of any other denoiser."""

    def wrap(_: Denoise) -> Denoise:
        wanted, away = (
            session.model.condition(session.to_device(part)) for part in (batch, unwanted)
        )
        return session.model.denoise(wanted, away, **session.guidance)

    return wrap


def _of_data(session: SamplingSession, split: str, count: int | None) -> list[dict[str, Any]]:
    """Captions of a data set of the run, and their classes where it has some.

    Those of training are spread evenly over the set, which may be sorted.
    """
    if count is None:
        return []
    option = f"--{split}-captions"
    if "data" not in session.config:
        raise UserError(f"{option}: {session.options.source} has no data of its own")
    data = instantiate(session.config.data.params[split], f"data.params.{split}")
    if not hasattr(data, "__getitem__"):
        raise UserError(f"{option}: the {split} set of this run is a stream, without numbers")
    if count > len(data):
        raise UserError(f"{option} {count}: the {split} set has {len(data)} images")
    if "caption" not in data[0]:
        raise UserError(f"{option}: the {split} images of this run have no captions")
    step = len(data) / count if split == "train" else 1
    return [_entry(data[int(k * step)]) for k in range(count)]


def _entry(item: Mapping[str, Any]) -> dict[str, Any]:
    label = item.get("class_label")
    return {"prompt": item["caption"]} | ({} if label is None else {"label": int(label)})
