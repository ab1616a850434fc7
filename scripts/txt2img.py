"""Make images from text with a text-conditional latent diffusion model.

Examples:
  python scripts/txt2img.py runs/mine --prompt "a red circle" --guidance 3
  python scripts/txt2img.py runs/mine --prompts prompts.txt --per-prompt 8 --out pictures

Writes OUT/images/*.png, OUT/grid.png (a row per prompt) and OUT/samples.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from _cli import run
from _sampling import Batch, Job, generate, parser

from ldm.config import instantiate
from ldm.errors import UserError


def main() -> None:
    """Read the prompts and sample."""
    options = parser(__doc__)
    options.add_argument("--prompt", action="append", default=[], help="a prompt; repeat for more")
    options.add_argument("--prompts", type=Path, help="text file with a prompt a line")
    options.add_argument(
        "--validation-captions",
        type=int,
        metavar="N",
        help="the captions of the first N images of the run's validation data",
    )
    options.add_argument("--per-prompt", type=int, default=4, help="images a prompt (default: 4)")
    arguments = options.parse_args()
    if arguments.per_prompt < 1:
        raise UserError(f"--per-prompt {arguments.per_prompt}: must be at least 1")

    job = Job.load(arguments)
    prompts = arguments.prompt + _read_prompts(arguments.prompts)
    prompts += _validation_captions(job, arguments.validation_captions)
    if not prompts:
        raise UserError('no prompts: give --prompt "...", --prompts FILE, --validation-captions N')
    text = next((c for c in job.model.conditioners if getattr(c, "tokenizer", None)), None)
    if text is None:
        raise UserError(f"{arguments.run}: this model has no text conditioner; see sample.py")
    requests = [prompt for prompt in prompts for _ in range(arguments.per_prompt)]

    def conditions(indices: Sequence[int]) -> Batch:
        return {text.key: text.tokenizer([requests[k] for k in indices])}

    records = [{"prompt": prompt} for prompt in requests]
    generate(job, len(requests), conditions, records, columns=arguments.per_prompt)


def _read_prompts(path: Path | None) -> list[str]:
    if path is None:
        return []
    if not path.is_file():
        raise UserError(f"--prompts {path}: no such file; it should hold a prompt a line")
    return [line.strip() for line in path.read_text().splitlines() if line.strip()]


def _validation_captions(job: Job, count: int | None) -> list[str]:
    if count is None:
        return []
    data = instantiate(job.config.data.params.validation, "data.params.validation")
    if not 0 < count <= len(data):
        raise UserError(f"--validation-captions {count}: the validation set has {len(data)} images")
    if "caption" not in data[0]:
        raise UserError("--validation-captions: the validation images of this run have no captions")
    return [data[k]["caption"] for k in range(count)]


if __name__ == "__main__":
    run(main)
