"""Measure samples of a diffusion model: how good they are, and whether they show what they should.

Examples:
  python scripts/evaluate.py runs/mine --samples runs/mine/generated --features inception
  python scripts/evaluate.py runs/quickstart-text2img --samples DIR --judge
                                          do the images show what their prompts say? (scenes only)

--features is `inception` (torch-fidelity's weights, for published FIDs), a run folder of a feature
network such as runs/quickstart-features, or the dotted name of a class of yours. Real images come
from the run's own validation data, or from --real DATA.yaml. The report is printed and written as
JSON: metrics.json in the sample folder. Autoencoders: scripts/evaluate_autoencoder.py.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from _cli import check_device, run
from _evaluation import (
    Data,
    add_comparison,
    add_feature_options,
    describe_data,
    describe_preprocessing,
    feature_network,
    first_images,
    image_batches,
    validation_data,
    write_report,
)
from _sampling import default_device
from torch.utils.data import Dataset
from torchvision.io import ImageReadMode, read_image
from tqdm import tqdm

from ldm.config import load_config
from ldm.errors import UserError
from ldm.evaluation.comparison import FeatureComparison
from ldm.evaluation.features import FeatureExtractor
from ldm.evaluation.judge import check, validate_judge
from ldm.evaluation.report import EvaluationReport
from ldm.load import run_config


def main() -> None:
    """Read samples and real images, measure, and write the report."""
    arguments = _parser().parse_args()
    if arguments.samples is None:
        raise UserError(
            "give --samples: sample first with scripts/sample.py or scripts/txt2img.py; to measure "
            f"an autoencoder: scripts/evaluate_autoencoder.py {arguments.run}"
        )
    if arguments.batch_size < 1:
        raise UserError(f"--batch-size {arguments.batch_size}: must be at least 1")
    check_device(arguments.device)
    record = _record(arguments.samples)
    fakes = Pictures([arguments.samples / entry["file"] for entry in record["samples"]])
    if arguments.real:
        where = f"--real {arguments.real}"
        dataset = validation_data(load_config(arguments.real), where)
    else:
        where = f"validation data of {arguments.run}"
        dataset = validation_data(run_config(arguments.run), where)
    real = first_images(dataset, arguments.num, where)
    extractor = feature_network(arguments)
    if extractor is None and not arguments.judge:
        raise UserError("nothing to measure: give --features, and --judge for synthetic scenes")
    report = EvaluationReport(f"{arguments.samples} by {record['settings']['run']}")
    about = {
        "resolution": fakes[0]["image"].shape[-2:],
        "data": describe_data(dataset, where),
        "preprocessing": describe_preprocessing(dataset),
    }
    if extractor is not None:
        _add_distances(report, extractor, real, fakes, about, arguments)
    if arguments.judge:
        prompts = [entry.get("prompt") for entry in record["samples"]]
        _add_verdicts(report, real, fakes, prompts, about)
    write_report(report, arguments.samples / "metrics.json")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="run folder")
    parser.add_argument("--samples", type=Path, help="folder with images/ that the run generated")
    parser.add_argument("--real", metavar="YAML", help="data node to compare with")
    add_feature_options(parser)
    parser.add_argument("--judge", action="store_true", help="check images against their prompts")
    parser.add_argument("--num", type=int, help="real images to use (default: all)")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default=default_device())
    return parser


class Pictures(Dataset[dict[str, Any]]):
    """PNG files as images (3, H, W) in [-1, 1], read when asked for."""

    def __init__(self, files: list[Path]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        pixels = read_image(str(self._files[index]), ImageReadMode.RGB)
        return {"image": pixels.float() / 127.5 - 1}


def _record(folder: Path) -> dict[str, Any]:
    """What ``samples.json`` says, whose images are all there."""
    file = folder / "samples.json"
    if not file.is_file():
        raise UserError(
            f"--samples {folder}: no samples.json there; give the --out folder of "
            "scripts/sample.py or scripts/txt2img.py"
        )
    record: dict[str, Any] = json.loads(file.read_text())
    files = [folder / entry["file"] for entry in record["samples"]]
    absent = [file for file in files if not file.is_file()]
    if absent:
        raise UserError(
            f"{folder}: {len(absent)} of its images are absent, first {absent[0].name}: repeat the "
            "sampling command, it goes on where it stopped"
        )
    return record


def _add_distances(
    report: EvaluationReport,
    extractor: FeatureExtractor,
    real: Data,
    fakes: Pictures,
    about: dict[str, Any],
    arguments: argparse.Namespace,
) -> None:
    comparison = FeatureComparison(extractor, arguments.device, len(fakes))
    for dataset, add in ((real, comparison.add_real), (fakes, comparison.add_fake)):
        batches = image_batches(dataset, arguments.batch_size)
        for images in tqdm(batches, desc="features", unit="batch", dynamic_ncols=True):
            add(images)
    counts = {"num_real": len(real), "num_fake": len(fakes)}  # type: ignore[arg-type]
    add_comparison(report, comparison, about | counts)


def _add_verdicts(
    report: EvaluationReport,
    real: Data,
    fakes: Pictures,
    prompts: list[str | None],
    about: dict[str, Any],
) -> None:
    """Shares of samples that show their prompt, once the judge has shown that it can tell."""
    if not prompts[0] or "caption" not in real[0]:
        raise UserError("--judge needs samples with prompts, and a run on synthetic scenes")
    scenes = min(500, len(real))  # type: ignore[arg-type]
    accuracy = validate_judge(real, scenes)  # type: ignore[arg-type]
    note = "share of real scenes that the judge reads without error"
    report.add("judge_accuracy", accuracy, num_real=scenes, num_fake=0, note=note, **about)
    verdicts = [check(fakes[k]["image"], str(text)) for k, text in enumerate(prompts)]
    for name, values, note in (
        ("shape_and_colour", [v.shape_and_colour for v in verdicts], "shows all that is named"),
        ("count", [v.count for v in verdicts], "shows exactly what is named"),
        (
            "relation",
            [v.relation for v in verdicts if v.relation is not None],
            "left of, above, ...",
        ),
        ("correct", [v.correct for v in verdicts], "all of these"),
    ):
        if values:
            share = sum(map(bool, values)) / len(values)
            report.add(name, share, num_real=0, num_fake=len(values), note=note, **about)


if __name__ == "__main__":
    run(main)
