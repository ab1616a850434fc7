"""Make images from text with a text-conditional latent diffusion model."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from ldm.cli.conditions import text_condition, warn_of_cuts
from ldm.cli.outputs import generate
from ldm.cli.sampling import SamplingSession
from ldm.config import instantiate
from ldm.diffusion.sampling import Denoise
from ldm.errors import UserError


def run(options: argparse.Namespace) -> None:
    """Read the prompts and sample."""
    if options.per_prompt < 1:
        raise UserError(f"--per-prompt {options.per_prompt}: must be at least 1")
    negative = options.negative_prompt
    if negative is not None and options.guidance == 1:
        raise UserError("--negative-prompt has no effect without --guidance above 1, e.g. 5")
    prompts = options.prompt + read_prompts(options.prompts)
    if not prompts and options.validation_captions is None:
        raise UserError('no prompts: give --prompt "...", --prompts FILE, --validation-captions N')

    session = SamplingSession.load(options)
    text = text_condition(session)
    prompts += _validation_captions(session, options.validation_captions)
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
        return session.model.denoise(wanted, away, session.options.guidance)

    return wrap


def read_prompts(path: Path | None) -> list[str]:
    """The lines of a prompt file that are not empty.

    Raises:
        UserError: there is no such text file.
    """
    if path is None:
        return []
    if not path.is_file():
        raise UserError(f"--prompts {path}: no such file; it should hold a prompt a line")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"--prompts {path}: not a text file (UTF-8)") from None
    return [line.strip() for line in lines if line.strip()]


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
