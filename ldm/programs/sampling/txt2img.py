"""Make images from text with a text-conditional latent diffusion model."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

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
    prompts = options.prompt + _validation_captions(session, options.validation_captions)
    warn_of_cuts(session, text.tokenizer, [*prompts, *([] if negative is None else [negative])])
    requests = [prompt for prompt in prompts for _ in range(options.per_prompt)]

    def make(indices: Sequence[int], seeds: Sequence[int]) -> Tensor:
        batch = {text.key: text.tokenizer([requests[k] for k in indices])}
        if negative is None:
            return session.images(batch, seeds)
        unwanted = {text.key: text.tokenizer([negative] * len(indices))}
        return session.images(batch, seeds, guidance=1, guide=away_from(session, batch, unwanted))

    generate(
        session,
        make,
        [{"prompt": prompt} for prompt in requests],
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


def _validation_captions(session: SamplingSession, count: int | None) -> list[str]:
    if count is None:
        return []
    where = "data.params.validation"
    if "data" not in session.config:
        raise UserError(f"--validation-captions: {session.options.source} has no data of its own")
    data = instantiate(session.config.data.params.validation, where)
    if not 0 < count <= len(data):
        raise UserError(f"--validation-captions {count}: the validation set has {len(data)} images")
    if "caption" not in data[0]:
        raise UserError("--validation-captions: the validation images of this run have no captions")
    return [data[k]["caption"] for k in range(count)]
