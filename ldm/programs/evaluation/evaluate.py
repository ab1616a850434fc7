"""Measure generated images by a protocol that the report states: FID and all that goes with it."""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ldm.cli.app import say
from ldm.cli.data import add_verdicts, write_report
from ldm.cli.options.model import is_model, is_run, name_of
from ldm.cli.protocol import choose_protocol, load_networks
from ldm.cli.sources import Source, open_fake, open_real
from ldm.distributed import Processes, own_device
from ldm.errors import UserError
from ldm.evaluation.evaluator import evaluate, output_of
from ldm.evaluation.extraction import Extractor, FeatureCache, Request
from ldm.evaluation.metrics.fid import save_statistics
from ldm.evaluation.protocol import EvaluationProtocol
from ldm.evaluation.report import EvaluationReport
from ldm.evaluation.sources.base import SHOWN
from ldm.evaluation.sources.record import RECORD
from ldm.evaluation.sources.statistics import StoredStatistics
from ldm.files import fitting_name


def run(arguments: argparse.Namespace) -> None:
    """Open both sides, measure, and write the report."""
    protocol = choose_protocol(arguments)
    processes = Processes.join()
    arguments.device = own_device(arguments.device)
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
    extractor = Extractor(
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
    features = extractor.images(source, {output: Request(True) for output in outputs}, "images")
    if not processes.first:
        return
    (network,) = found.networks.values()
    about = {
        "network": network.name,
        "weights_sha256": network.weights_sha256,
        "resize": network.resize.describe(),
        "source_sha256": source.info.sha256,
    }
    statistics = {o.name: g.statistics for o, g in features.items() if g.statistics is not None}
    if not statistics:
        raise UserError("--save-statistics: no metric of this protocol uses mean and covariance")
    save_statistics(arguments.save_statistics, statistics, about)
    count = next(iter(statistics.values())).count
    say(f"mean and covariance of {count} images: {arguments.save_statistics}")


def _progress(processes: Processes) -> Any:
    return functools.partial(tqdm, unit="batch", dynamic_ncols=True, disable=not processes.first)


def check_model_options(arguments: argparse.Namespace) -> None:
    """Refuse options of a model where there is none.

    Raises:
        UserError: one of them was given.
    """
    if is_model(arguments):
        return
    for name, value in arguments.of_a_model.items():
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
        return source / fitting_name(f"metrics-{name.replace('/', '_')}", ".json")
    return Path(fitting_name(f"evaluation-{name_of(arguments.source)}", ".json"))
