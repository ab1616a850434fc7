"""What a model is conditioned on, and how the command line says it: labels, prompts, or neither."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ldm.cli.sampling import SamplingSession
from ldm.conditioners.class_label import ClassLabel
from ldm.diffusion.classifier import NoisyLatentClassifier
from ldm.errors import UserError

PROGRAMS = {
    "class_label": "sample.py",
    "tokens": "txt2img.py",
    "masked_image": "inpaint.py",
    "mask": "inpaint.py",
    "lr_image": "superres.py",
    "box_tokens": "layout2img.py",
    "segmentation": "semantic2img.py",
    "neighbours": "retrieve2img.py",
}
"""By the batch entry that a model needs."""
T = TypeVar("T", bound=nn.Module)


def find_conditioner(
    session: SamplingSession,
    kind: type[T],
    what: str,
    accepts: Callable[[Any], bool] = lambda _: True,
) -> T:
    """The one conditioner of a model, which is of this kind.

    Args:
        session: the model.
        kind: class of the conditioner.
        what: it reads, for the message.
        accepts: what else must be true of it.

    Raises:
        UserError: the model reads nothing, something else, or more; the line names the program.
    """
    conditioners: list[Any] = list(session.model.conditioners)
    wanted = [part for part in conditioners if isinstance(part, kind) and accepts(part)]
    if len(conditioners) == 1 and wanted:
        return wanted[0]
    others = [part.key for part in conditioners if part not in wanted]
    raise UserError(
        f"{session.options.source} is conditioned on {_listed(conditioners)}, not on {what}"
        f"{' alone' * bool(wanted)}: {_advice(others if conditioners else ['class_label'])}"
    )


def class_condition(session: SamplingSession) -> ClassLabel | None:
    """The class condition of a model, None if it is unconditional.

    Raises:
        UserError: see ``find_conditioner``.
    """
    if not len(session.model.conditioners):
        return None
    return find_conditioner(session, ClassLabel, "classes")


def text_condition(session: SamplingSession) -> Any:
    """The conditioner of a text model, which has a ``tokenizer``.

    Raises:
        UserError: see ``find_conditioner``.
    """
    return find_conditioner(session, nn.Module, "text", _reads_text)


def num_classes(
    condition: ClassLabel | None, classifier: NoisyLatentClassifier | None
) -> int | None:
    """The classes that both know, None if there are none.

    Raises:
        UserError: the classifier is one of label maps.
    """
    known = [] if condition is None else [condition.num_classes]
    if classifier is not None:
        if classifier.label_key != "class_label":
            raise UserError(f"--classifier: it knows {classifier.label_key!r}, not class labels")
        known.append(classifier.network.out_channels)  # type: ignore[arg-type]
    return min(known, default=None)


def choose_labels(policy: str, count: int, num_classes: int, seed: int) -> list[int]:
    """One class id an image: ``uniform`` (in turn), ``random``, or a comma-separated list."""
    if policy == "uniform":
        return [k % num_classes for k in range(count)]
    if policy == "random":
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(num_classes, (count,), generator=generator).tolist()
    try:
        chosen = [int(item) for item in policy.split(",")]
    except ValueError:
        raise UserError(f"--labels {policy}: give uniform, random, or a list such as 3,5") from None
    for label in chosen:
        if not 0 <= label < num_classes:
            raise UserError(f"--labels {policy}: {label} is not within 0 to {num_classes - 1}")
    return [chosen[k % len(chosen)] for k in range(count)]


def check_conditions(
    session: SamplingSession,
    prompt: str | None,
    label: int | None,
    given: Collection[str] = (),
    prefix: str = "",
) -> None:
    """Refuse a prompt or label that the model does not know, and models that need other things.

    Args:
        session: the model.
        prompt: of a text model.
        label: class id.
        given: keys of the conditions that do not come from here.
        prefix: of the names of the options.

    Raises:
        UserError: it names the option, or the program that is for such a model.
    """
    source = session.options.source
    conditioners = [part for part in session.model.conditioners if part.key not in given]
    texts = [part for part in conditioners if _reads_text(part)]
    classes = [part for part in conditioners if isinstance(part, ClassLabel)]
    others = [part.key for part in conditioners if part not in texts and part not in classes]
    if others:
        raise UserError(f"{source} is conditioned on {others[0]}: {_advice(others[:1])}")
    if prompt is not None and not texts:
        raise UserError(f"--{prefix}prompt: {source} is not conditioned on text")
    if label is not None and not classes:
        raise UserError(f"--{prefix}label {label}: {source} is not conditioned on classes")
    for part in classes:
        if label is None and part.null_index is None:
            raise UserError(
                f"{source} is conditioned on classes and knows no 'no class': give --{prefix}label "
                f"0 to {part.num_classes - 1}"
            )
        if label is not None and not 0 <= label < part.num_classes:
            raise UserError(f"--{prefix}label {label}: not within 0 to {part.num_classes - 1}")
    for part in texts:
        warn_of_cuts(session, part.tokenizer, [prompt or ""])


def conditions(
    session: SamplingSession,
    prompt: str | None,
    label: int | None,
    count: int,
    given: Collection[str] = (),
) -> dict[str, Tensor]:
    """Batch entries of ``count`` images under one prompt or label; None: the empty text, no class.

    They must have passed ``check_conditions``.
    """
    batch = {}
    for part in session.model.conditioners:
        if part.key in given:
            continue
        if isinstance(part, ClassLabel):
            batch[part.key] = torch.tensor([part.null_index if label is None else label] * count)
        else:
            batch[part.key] = part.tokenizer([prompt or ""] * count)
    return session.to_device(batch)


def warn_of_cuts(session: SamplingSession, tokenizer: Any, prompts: Sequence[str]) -> None:
    """Say which words the text encoder will not see."""
    if not hasattr(tokenizer, "cut_off"):  # one of the user's own
        return
    for prompt in dict.fromkeys(prompts):
        cut = tokenizer.cut_off(prompt)
        if cut:
            session.warn(
                f"the prompt '{_shortened(prompt)}' is longer than the {tokenizer.length} tokens "
                f"of the model, which will not see its end: '{_shortened(cut)}'"
            )


def _reads_text(conditioner: Any) -> bool:
    return getattr(conditioner, "tokenizer", None) is not None


def _listed(conditioners: Sequence[Any]) -> str:
    return ", ".join(part.key for part in conditioners) or "nothing"


def _advice(keys: Sequence[str]) -> str:
    """The program for a model with these conditions."""
    known = [PROGRAMS[key] for key in keys if key in PROGRAMS]
    return f"use scripts/{known[0]}" if known else "no script knows how to; see docs/sampling.md"


def _shortened(text: str, most: int = 200) -> str:
    return text if len(text) <= most else f"{text[:most]}..."
