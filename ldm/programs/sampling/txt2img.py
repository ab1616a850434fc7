"""Make images from text with a text-conditional latent diffusion model."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from ldm.cli.conditions import text_condition, warn_of_cuts
from ldm.cli.outputs import generate
from ldm.cli.sampling import Job
from ldm.config import instantiate
from ldm.diffusion.sampling import Denoise
from ldm.errors import UserError


def run(arguments: argparse.Namespace) -> None:
    """Read the prompts and sample."""
    if arguments.per_prompt < 1:
        raise UserError(f"--per-prompt {arguments.per_prompt}: must be at least 1")
    negative = arguments.negative_prompt
    if negative is not None and arguments.guidance == 1:
        raise UserError("--negative-prompt has no effect without --guidance above 1, e.g. 5")
    prompts = arguments.prompt + read_prompts(arguments.prompts)
    if not prompts and arguments.validation_captions is None:
        raise UserError('no prompts: give --prompt "...", --prompts FILE, --validation-captions N')

    job = Job.load(arguments)
    text = text_condition(job)
    prompts += _validation_captions(job, arguments.validation_captions)
    warn_of_cuts(job, text.tokenizer, [*prompts, *([] if negative is None else [negative])])
    requests = [prompt for prompt in prompts for _ in range(arguments.per_prompt)]

    def make(indices: Sequence[int], seeds: Sequence[int]) -> Tensor:
        batch = {text.key: text.tokenizer([requests[k] for k in indices])}
        if negative is None:
            return job.images(batch, seeds)
        unwanted = {text.key: text.tokenizer([negative] * len(indices))}
        return job.images(batch, seeds, guidance=1, guide=away_from(job, batch, unwanted))

    generate(
        job,
        make,
        [{"prompt": prompt} for prompt in requests],
        columns=arguments.per_prompt,
        settings={"negative_prompt": negative},
    )


def away_from(
    job: Job, batch: dict[str, Tensor], unwanted: dict[str, Tensor]
) -> Callable[[Denoise], Denoise]:
    """Guidance from the unwanted towards the wanted batch, in place of any other denoiser."""

    def wrap(_: Denoise) -> Denoise:
        wanted, away = (job.model.condition(job.to_device(part)) for part in (batch, unwanted))
        return job.model.denoise(wanted, away, job.arguments.guidance)

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


def _validation_captions(job: Job, count: int | None) -> list[str]:
    if count is None:
        return []
    where = "data.params.validation"
    if "data" not in job.config:
        raise UserError(f"--validation-captions: {job.arguments.source} has no data of its own")
    data = instantiate(job.config.data.params.validation, where)
    if not 0 < count <= len(data):
        raise UserError(f"--validation-captions {count}: the validation set has {len(data)} images")
    if "caption" not in data[0]:
        raise UserError("--validation-captions: the validation images of this run have no captions")
    return [data[k]["caption"] for k in range(count)]
