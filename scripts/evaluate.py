"""Measure a trained stage: how well it reconstructs, or how good its samples are.

Examples:
  python scripts/evaluate.py runs/my-autoencoder                PSNR, SSIM on validation images
  python scripts/evaluate.py runs/mine --samples runs/mine/generated --features inception
  python scripts/evaluate.py runs/quickstart-text2img --samples DIR --judge
                                          do the images show what their prompts say? (scenes only)

--features is `inception` (torch-fidelity's weights, for published FIDs), a run folder of a feature
network such as runs/quickstart-features, or the dotted name of a class of yours. Real images come
from the run's own validation data, or from --real DATA.yaml. The report is printed and written as
JSON: metrics.json in the sample folder, or in the run folder for an autoencoder.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from _cli import check_device, run, say
from _sampling import default_device, save_grid, save_png
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.io import ImageReadMode, read_image
from tqdm import tqdm

from ldm.config import instantiate, load_config
from ldm.errors import UserError
from ldm.evaluation.features import FeatureExtractor, extract_features
from ldm.evaluation.frechet import frechet_distance
from ldm.evaluation.inception import InceptionFeatures
from ldm.evaluation.judge import check, validate_judge
from ldm.evaluation.precision_recall import precision_recall
from ldm.evaluation.reconstruction import psnr, ssim
from ldm.evaluation.report import EvaluationReport
from ldm.evaluation.statistics import FeatureStatistics
from ldm.load import load_model, run_config

Data = Dataset[Any]
SHEET_IMAGES = 8
FEWEST = 4  # precision and recall look at the third neighbour


def main() -> None:
    """Decide what is to be measured, measure, and write the report."""
    arguments = _parser().parse_args()
    if arguments.num is not None and arguments.num < 1:
        raise UserError(f"--num {arguments.num}: must be at least 1")
    check_device(arguments.device)
    config = run_config(arguments.run)
    source = load_config(arguments.real) if arguments.real else config.data
    module = instantiate(source, "data")
    if not hasattr(module, "validation"):
        raise UserError(f"--real {arguments.real}: not a node of ldm.training.data.DataModule")
    real: Data = module.validation
    count = len(real)  # type: ignore[arg-type]
    real = Subset(real, range(min(count, arguments.num))) if arguments.num else real
    extractor = _extractor(arguments.features, arguments.device)
    if arguments.samples:
        report = _evaluate_samples(arguments, real, extractor)
        out = arguments.samples / "metrics.json"
    else:
        report = _evaluate_autoencoder(arguments, real, extractor)
        out = Path(arguments.run) / "metrics.json"
    out.write_text(report.to_json() + "\n")
    say(report.table())
    say(f"written to {out}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="run folder")
    parser.add_argument("--samples", type=Path, help="folder with images/ that the run generated")
    parser.add_argument("--real", metavar="YAML", help="data node to compare with")
    parser.add_argument("--features", help="inception, a run folder, or a dotted class name")
    parser.add_argument("--judge", action="store_true", help="check images against their prompts")
    parser.add_argument("--checkpoint", default="last", help="last (default), best, or a file")
    parser.add_argument("--num", type=int, help="real images to use (default: all)")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default=default_device())
    return parser


def _extractor(name: str | None, device: str) -> FeatureExtractor | None:
    if name is None:
        return None
    if name == "inception":
        network: Any = InceptionFeatures()
    elif Path(name).exists():
        network = load_model(name)
    elif "." in name:
        network = instantiate({"target": name}, "--features")
    else:
        raise UserError(f"--features {name}: no such run; give inception, a run, or a dotted name")
    if not hasattr(network, "dim"):
        raise UserError(f"--features {name}: a {type(network).__name__} is no feature network")
    return network.to(device).eval()


def _images(dataset: Data, batch_size: int) -> Iterator[Tensor]:
    for batch in DataLoader(dataset, batch_size=batch_size):
        yield batch["image"]


# -- stage 1 ---------------------------------------------------------------------------------


@torch.no_grad()
def _evaluate_autoencoder(
    arguments: argparse.Namespace, real: Data, extractor: FeatureExtractor | None
) -> EvaluationReport:
    model: Any = load_model(arguments.run, checkpoint=arguments.checkpoint, device=arguments.device)
    if not hasattr(model, "encode") or not hasattr(model, "last_layer"):
        raise UserError(
            f"{arguments.run} holds a {type(model).__name__}, not an autoencoder; to measure a "
            "diffusion model, sample first and give --samples"
        )
    originals, copies, latents = [], [], []
    for images in tqdm(_images(real, arguments.batch_size), desc="reconstructing", unit="batch"):
        posterior = model.encode(images.to(arguments.device))
        originals.append(images)
        copies.append(model.decode(posterior.mode()).clamp(-1, 1).cpu())
        latents.append(posterior.sample(torch.Generator(arguments.device).manual_seed(0)).cpu())
    x, y, z = torch.cat(originals), torch.cat(copies), torch.cat(latents)
    report = EvaluationReport(f"reconstruction by {arguments.run}")
    about: dict[str, Any] = {"num_real": len(x), "num_fake": len(y), "resolution": x.shape[-2:]}
    report.add("psnr", psnr(x, y).mean().item(), **about)
    report.add("ssim", ssim(x, y).mean().item(), **about)
    report.add("latent_mean", z.mean().item(), **about)
    report.add("latent_std", z.std().item(), note="the scale factor is 1 / latent_std", **about)
    if extractor is not None:
        _add_distances(report, extractor, x.split(64), y.split(64), about, arguments.device, "r")
    _reconstruction_sheet(x, y, Path(arguments.run) / "reconstructions.png")
    return report


def _reconstruction_sheet(x: Tensor, y: Tensor, out: Path) -> None:
    """A row of originals above a row of reconstructions."""
    folder = out.with_suffix("")
    folder.mkdir(exist_ok=True)
    files = []
    for name, images in (("original", x), ("copy", y)):
        for k, image in enumerate(images[:SHEET_IMAGES]):
            files.append(folder / f"{name}-{k}.png")
            save_png(image, files[-1])
    save_grid(files, SHEET_IMAGES, out)
    say(f"originals above reconstructions: {out}")


# -- stage 2 ---------------------------------------------------------------------------------


def _evaluate_samples(
    arguments: argparse.Namespace, real: Data, extractor: FeatureExtractor | None
) -> EvaluationReport:
    record_file = arguments.samples / "samples.json"
    if not record_file.is_file():
        raise UserError(
            f"--samples {arguments.samples}: no samples.json there; give the --out folder of "
            "scripts/sample.py or scripts/txt2img.py"
        )
    record = json.loads(record_file.read_text())
    files = [arguments.samples / entry["file"] for entry in record["samples"]]
    absent = [file for file in files if not file.is_file()]
    if absent:
        raise UserError(
            f"{arguments.samples}: {len(absent)} of its images are absent, first {absent[0].name}: "
            "repeat the sampling command, it goes on where it stopped"
        )
    fakes = [read_image(str(file), ImageReadMode.RGB).float() / 127.5 - 1 for file in files]
    report = EvaluationReport(f"{arguments.samples} by {record['settings']['run']}")
    if extractor is None and not arguments.judge:
        raise UserError("nothing to measure: give --features, and --judge for synthetic scenes")
    if extractor is not None:
        size = fakes[0].shape[-2:]
        about = {"num_real": len(real), "num_fake": len(fakes), "resolution": size}  # type: ignore[arg-type]
        batches = torch.stack(fakes).split(arguments.batch_size)
        real_batches = tqdm(_images(real, arguments.batch_size), desc="real images", unit="batch")
        _add_distances(report, extractor, real_batches, batches, about, arguments.device)
    if arguments.judge:
        _add_verdicts(report, real, fakes, [entry.get("prompt") for entry in record["samples"]])
    return report


def _add_distances(
    report: EvaluationReport,
    extractor: FeatureExtractor,
    real: Any,
    fake: Any,
    about: dict[str, Any],
    device: str,
    prefix: str = "",
) -> None:
    real_features = extract_features(extractor, real, device)
    fake_features = extract_features(extractor, fake, device)
    if min(len(real_features), len(fake_features)) < FEWEST:
        raise UserError(f"--features needs at least {FEWEST} real and {FEWEST} other images")
    statistics = [
        FeatureStatistics(extractor.dim).update(f) for f in (real_features, fake_features)
    ]
    about = {**about, "extractor": extractor}
    report.add(f"{prefix}fd", frechet_distance(*statistics), **about)
    shares = precision_recall(real_features, fake_features)
    report.add(f"{prefix}precision", shares.precision, **about)
    report.add(f"{prefix}recall", shares.recall, **about)


def _add_verdicts(
    report: EvaluationReport, real: Data, fakes: list[Tensor], prompts: list[str | None]
) -> None:
    """Shares of samples that show their prompt, once the judge has shown that it can tell."""
    if not prompts[0] or "caption" not in real[0]:
        raise UserError("--judge needs samples with prompts, and a run on synthetic scenes")
    scenes = min(500, len(real))  # type: ignore[arg-type]
    accuracy = validate_judge(real, scenes)  # type: ignore[arg-type]
    size = fakes[0].shape[-2:]
    report.add(
        "judge_accuracy",
        accuracy,
        num_real=scenes,
        num_fake=0,
        resolution=size,
        note="share of real scenes that the judge reads without error",
    )
    verdicts = [check(image, str(text)) for image, text in zip(fakes, prompts, strict=True)]
    about: dict[str, Any] = {"num_real": 0, "resolution": size}
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
            report.add(name, share, num_fake=len(values), note=note, **about)


if __name__ == "__main__":
    run(main)
