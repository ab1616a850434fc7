"""What a model is conditioned on: class labels and prompts from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ldm.cli.sampling import SamplingSession
from ldm.conditioners.class_label import ClassLabel
from ldm.diffusion.classifier import NoisyLatentClassifier
from ldm.errors import UserError

OTHER_SCRIPTS = {
    "tokens": "txt2img.py",
    "masked_image": "inpaint.py",
    "lr_image": "superres.py",
    "box_tokens": "layout2img.py",
    "segmentation": "semantic2img.py",
    "neighbours": "retrieve2img.py",
}
"""By the batch entry that a model needs."""


def class_condition(session: SamplingSession) -> ClassLabel | None:
    """The class condition of a model, None if it is unconditional.

    Raises:
        UserError: it has other conditions; the line names the script for them.
    """
    conditioners = list(session.model.conditioners)
    if not conditioners:
        return None
    if len(conditioners) == 1 and isinstance(conditioners[0], ClassLabel):
        return conditioners[0]
    keys = [conditioner.key for conditioner in conditioners]
    scripts = [OTHER_SCRIPTS[key] for key in keys if key in OTHER_SCRIPTS]
    raise UserError(
        f"{session.options.source} is conditioned on {', '.join(keys)}: "
        + (f"use scripts/{scripts[0]}" if scripts else "no script knows how to; see docs")
    )


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


def text_condition(session: SamplingSession) -> Any:
    """The conditioner of a text model, which has a ``tokenizer``.

    Raises:
        UserError: it has none, or needs more than a text.
    """
    conditioners = list(session.model.conditioners)
    texts = [part for part in conditioners if getattr(part, "tokenizer", None)]
    source = session.options.source
    if not texts:
        raise UserError(f"{source}: this model has no text conditioner; see scripts/sample.py")
    others = [part.key for part in conditioners if part is not texts[0]]
    if others:
        raise UserError(f"{source}: needs {', '.join(others)} besides text; see docs/sampling.md")
    return texts[0]


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


def _shortened(text: str, most: int = 200) -> str:
    return text if len(text) <= most else f"{text[:most]}..."
