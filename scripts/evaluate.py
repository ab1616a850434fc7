"""Measure generated images by a protocol that the report states: FID and all that goes with it.

Examples:
  python scripts/evaluate.py runs/mine/generated --preset ldm-paper
  python scripts/evaluate.py samples.npz --preset adm --real VIRTUAL_imagenet256_labeled.npz
  python scripts/evaluate.py runs/mine --preset quick --steps 50       sampled on the fly
  python scripts/evaluate.py photos/fake --real photos/real --features inception --metrics fid,kid
  python scripts/evaluate.py runs/mine/generated --preset laptop --features runs/laptop-features
  python scripts/evaluate.py runs/quickstart-text2img/prompts --judge
                                          do the images show what their prompts say? (scenes only)
  torchrun --standalone --nproc-per-node 8 scripts/evaluate.py DIR --preset ldm-paper

SOURCE, and --real, is a folder of images (nested, or of the sampling scripts), an npz of images
(arr_0) or of statistics (mu, sigma: ADM's reference batches, clean-fid's), tar shards, a YAML with
a data node (DATA.yaml, DATA.yaml#train), or a run: --real RUN is its data, SOURCE a model that is
sampled by the options of scripts/sample.py. Real images that nobody names are those of the run that
made the samples.

Presets are in configs/evaluation and explained in docs/evaluation.md. The report says what every
number was made of; scripts/compare_reports.py tells whether two may be compared. OUT is
SOURCE/metrics.json for the folders of the sampling scripts, RUN/metrics-PRESET.json for a run, else
evaluation-NAME.json here. Exit code 3: images could not be read.

Autoencoders: scripts/evaluate_autoencoder.py. Conditions other than classes:
scripts/evaluate_task.py.
"""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path
from typing import Any

from _cli import check_device, check_out_file, check_out_folder, run, say
from _evaluation import add_verdicts, write_report
from _model import add_source_options, is_model, is_run, name_of
from _processes import Processes, own_device
from _protocol import add_protocol_options, choose_protocol, load_networks
from _samplers import add_sampler_options
from _sampling import add_memory_options
from _sources import Source, add_source_side_options, open_fake, open_real
from tqdm import tqdm

from ldm.errors import UserError
from ldm.evaluation.feature_cache import FeatureCache
from ldm.evaluation.folder_source import RECORD
from ldm.evaluation.gatherer import Gatherer
from ldm.evaluation.gathering import Need
from ldm.evaluation.image_source import SHOWN
from ldm.evaluation.needs import output_of
from ldm.evaluation.protocol import EvaluationProtocol
from ldm.evaluation.report import EvaluationReport
from ldm.evaluation.run_protocol import evaluate
from ldm.evaluation.sources import StoredStatistics
from ldm.evaluation.statistics import save_statistics

MODEL_OPTIONS = (
    *("checkpoint", "no_ema", "labels", "guidance", "size", "sampler", "steps", "eta", "spacing"),
    *("precision", "tile", "tile_overlap", "decode_tile"),
)
"""What only a model that is sampled can follow."""


def main() -> None:
    """Open both sides, measure, and write the report."""
    arguments = parser().parse_args()
    if arguments.batch_size < 1:
        raise UserError(f"--batch-size {arguments.batch_size}: must be at least 1")
    protocol = choose_protocol(arguments)
    if protocol is None and not arguments.judge:
        raise UserError(
            "nothing to measure: give --preset or --features, or --judge for synthetic scenes"
        )
    check_out_file("--out", arguments.out)
    check_out_file("--save-statistics", arguments.save_statistics)
    check_out_folder("--cache", arguments.cache)
    processes = Processes.join()
    arguments.device = own_device(arguments.device)
    check_device(arguments.device)
    check_model_options(arguments)
    fake = open_fake(arguments, protocol)
    if arguments.save_statistics is not None:
        _save_statistics(arguments, protocol, fake, processes)
        return
    needs_real = protocol is None or protocol.needs_real or arguments.judge
    real = open_real(arguments, protocol) if needs_real else None
    report: EvaluationReport | None = EvaluationReport(f"{arguments.source}, judged")
    if protocol is not None:
        found = load_networks(arguments, protocol)
        report = evaluate(
            real,
            fake,
            found.protocol,
            found.networks,
            device=arguments.device,
            batch_size=arguments.batch_size,
            seed=arguments.seed,
            progress=_progress(processes),
            cache=None if arguments.cache is None else FeatureCache(arguments.cache),
            embed_texts=found.embed_texts,
        )
        if report is not None:
            report.remarks += found.remarks
    if report is None or not processes.first:
        return
    for source in (fake, *([] if real is None else [real])):
        corrupt = getattr(source, "corrupt", [])
        if corrupt:
            names = ", ".join(corrupt[:SHOWN]) + (", ..." if len(corrupt) > SHOWN else "")
            report.remarks.append(f"left out of {source.info.where}: {len(corrupt)}, {names}")
            report.details.setdefault("left_out", {})[source.info.where] = corrupt
    if arguments.judge:
        if isinstance(real, StoredStatistics) or isinstance(fake, StoredStatistics) or not real:
            raise UserError("--judge looks at images: statistics will not do")
        add_verdicts(report, real, fake)
    report.details["command"] = ["python", *sys.argv]
    write_report(report, out_file(arguments, protocol))


def _save_statistics(
    arguments: argparse.Namespace,
    protocol: EvaluationProtocol | None,
    source: Source,
    processes: Processes,
) -> None:
    """Write mean and covariance of the features of a source."""
    if protocol is None or isinstance(source, StoredStatistics):
        raise UserError("--save-statistics needs images, and --features or --preset")
    found = load_networks(arguments, protocol)
    if len(found.networks) > 1:
        raise UserError("--save-statistics is for one feature network: name it, --features NET")
    gatherer = Gatherer(
        found.networks,
        arguments.device,
        arguments.batch_size,
        arguments.seed,
        _progress(processes),
        None if arguments.cache is None else FeatureCache(arguments.cache),
    )
    outputs = {
        output_of(measure, found.networks)
        for measure in found.protocol.measures
        if measure.metric == "frechet"
    }
    gathered = gatherer.images(source, {output: Need(True) for output in outputs}, "images")
    if not processes.first:
        return
    (network,) = found.networks.values()
    about = {
        "network": network.name,
        "weights_sha256": network.weights_sha256,
        "resize": network.resize.describe(),
        "source_sha256": source.info.sha256,
    }
    statistics = {o.name: g.statistics for o, g in gathered.items() if g.statistics is not None}
    if not statistics:
        raise UserError("--save-statistics: no metric of this protocol uses mean and covariance")
    save_statistics(arguments.save_statistics, statistics, about)
    count = next(iter(statistics.values())).count
    say(f"mean and covariance of {count} images: {arguments.save_statistics}")


def parser() -> argparse.ArgumentParser:
    """The options, for other scripts too."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_source_options(options, "SOURCE", "generated images, or a model")
    add_source_side_options(options)
    add_protocol_options(options)
    options.add_argument(
        "--save-statistics",
        type=Path,
        metavar="FILE",
        help="only write mean and covariance of SOURCE's features (npz), for --real of later calls",
    )
    options.add_argument("--judge", action="store_true", help="check images against their prompts")
    options.add_argument("--out", type=Path, metavar="FILE", help="the report, as JSON")
    options.add_argument(
        "--batch-size", type=int, default=64, help="changes no number (default: 64)"
    )
    options.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of random choices; image k of a model is that of seed + k (default: 0)",
    )
    model = options.add_argument_group("if SOURCE is a model", "as of the sampling scripts")
    model.add_argument("--guidance", type=float, default=1.0, help="classifier-free; 1 = off")
    model.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="of the images")
    add_sampler_options(options)
    add_memory_options(options)
    return options


def _progress(processes: Processes) -> Any:
    return functools.partial(tqdm, unit="batch", dynamic_ncols=True, disable=not processes.first)


def check_model_options(arguments: argparse.Namespace) -> None:
    """Refuse options of a model where there is none.

    Raises:
        UserError: one of them was given.
    """
    if is_model(arguments):
        return
    usual = parser().parse_args([arguments.source])
    for name in MODEL_OPTIONS:
        value = getattr(arguments, name)
        if value != getattr(usual, name):
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"{option} {value}: goes with a model, {arguments.source} is none")


def out_file(arguments: argparse.Namespace, protocol: EvaluationProtocol | None) -> Path:
    """Where the report goes."""
    if arguments.out is not None:
        return Path(arguments.out)
    source = Path(arguments.source)
    if (source / RECORD).is_file():
        return source / "metrics.json"
    name = "judge" if protocol is None else protocol.name.partition(",")[0]
    if is_model(arguments) and is_run(arguments.source):
        return source / f"metrics-{name}.json"
    return Path(f"evaluation-{name_of(arguments.source)}.json")


if __name__ == "__main__":
    run(main)
