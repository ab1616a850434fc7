r"""Make images from text with a text-conditional latent diffusion model.

Examples:
  python scripts/txt2img.py runs/mine --prompt "a red circle" --guidance 3
  python scripts/txt2img.py runs/mine --prompts prompts.txt --per-prompt 8 --out pictures
  python scripts/txt2img.py sd-v1-4.ckpt --config v1-inference.yaml --size 512 512 \
      --prompt "a lighthouse" --negative-prompt "fog" --guidance 7.5 --sampler dpm++ --steps 25
  torchrun --standalone --nproc-per-node 8 scripts/txt2img.py runs/mine --prompts captions.txt

Writes OUT/images/*.png, OUT/grid.png (a row per prompt) and OUT/samples.json, which tells how to
make them again. A call that was killed is repeated as it was: it goes on where it stopped.
docs/sampling.md says more.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from _cli import run
from _output import generate
from _sampling import Job, sampling_parser
from torch import Tensor

from ldm.config import instantiate
from ldm.diffusion.sampling import Denoise
from ldm.errors import UserError


def main() -> None:
    """Read the prompts and sample."""
    arguments = parser().parse_args()
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


def parser() -> argparse.ArgumentParser:
    """The options, for other scripts too."""
    options = sampling_parser(__doc__)
    options.add_argument("--prompt", action="append", default=[], help="a prompt; repeat for more")
    options.add_argument("--prompts", type=Path, metavar="FILE", help="text file, a prompt a line")
    options.add_argument(
        "--validation-captions",
        type=int,
        metavar="N",
        help="the captions of the first N images of the run's validation data",
    )
    options.add_argument("--per-prompt", type=int, default=4, help="images a prompt (default: 4)")
    options.add_argument(
        "--negative-prompt",
        metavar="TEXT",
        help="what to guide away from, instead of from no text; with --guidance",
    )
    return options


def text_condition(job: Job) -> Any:
    """The conditioner of a text model, which has a ``tokenizer``.

    Raises:
        UserError: it has none, or needs more than a text.
    """
    conditioners = list(job.model.conditioners)
    texts = [part for part in conditioners if getattr(part, "tokenizer", None)]
    source = job.arguments.source
    if not texts:
        raise UserError(f"{source}: this model has no text conditioner; see scripts/sample.py")
    others = [part.key for part in conditioners if part is not texts[0]]
    if others:
        raise UserError(f"{source}: needs {', '.join(others)} besides text; see docs/sampling.md")
    return texts[0]


def warn_of_cuts(job: Job, tokenizer: Any, prompts: Sequence[str]) -> None:
    """Say which words the text encoder will not see."""
    if not hasattr(tokenizer, "cut_off"):  # one of the user's own
        return
    for prompt in dict.fromkeys(prompts):
        cut = tokenizer.cut_off(prompt)
        if cut:
            job.warn(
                f"the prompt '{_shortened(prompt)}' is longer than the {tokenizer.length} tokens "
                f"of the model, which will not see its end: '{_shortened(cut)}'"
            )


def away_from(
    job: Job, batch: dict[str, Tensor], unwanted: dict[str, Tensor]
) -> Callable[[Denoise], Denoise]:
    """Guidance from the unwanted towards the wanted batch, in place of any other denoiser."""

    def wrap(_: Denoise) -> Denoise:
        wanted, away = (job.model.condition(job.to_device(part)) for part in (batch, unwanted))
        return job.model.denoise(wanted, away, job.arguments.guidance)

    return wrap


def _shortened(text: str, most: int = 200) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


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


if __name__ == "__main__":
    run(main)
