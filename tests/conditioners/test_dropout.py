"""Every conditioner drops its values by its own chance, for what it says is no condition."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ldm.autoencoders.base import Deterministic
from ldm.conditioners.base import Conditioner
from ldm.conditioners.class_label import ClassLabel
from ldm.conditioners.embeddings import Embeddings
from ldm.conditioners.layout import LayoutTransformer
from ldm.conditioners.spatial import ConcatImage, LatentImage, ResizedMask, SpatialRescaler
from ldm.conditioners.text import TextTransformer
from ldm.conditioners.tokenizers import BertTokenizer
from ldm.diffusion.conditioning import drop_values, encode_conditions, null_batch
from tests.conditioners.vocabulary import write

N = 4000


class HalvingStage(nn.Module):
    downsampling_factor = 2

    def encode(self, x: Tensor) -> Deterministic:
        return Deterministic(nn.functional.avg_pool2d(x, 2))


def conditioners(folder: Path) -> list[Conditioner]:
    tokenizer = BertTokenizer(write(folder), length=4)
    return [
        ClassLabel(10, 8, drop_prob=0.1, null_index=10),
        TextTransformer(11, 8, 1, 4, tokenizer, drop_prob=0.2),
        LayoutTransformer(8, 1, 20, 4, drop_prob=0.3),
        Embeddings(8, drop_prob=0.4),
        SpatialRescaler(5, 3, drop_prob=0.5),
        ConcatImage(drop_prob=0.6),
        LatentImage(drop_prob=0.7),
        ResizedMask(drop_prob=0.8),
    ]


def batch(n: int) -> dict[str, Tensor]:
    """A batch of which no value is null."""
    return {
        "class_label": torch.full((n,), 3),
        "tokens": torch.full((n, 4), 6),
        "box_tokens": torch.full((n, 4), 5),
        "neighbours": torch.ones(n, 2, 8),
        "segmentation": torch.full((n, 4, 4), 2),
        "lr_image": torch.ones(n, 3, 2, 2),
        "masked_image": torch.ones(n, 3, 4, 4),
        "mask": torch.zeros(n, 1, 4, 4),
    }


def test_each_has_its_own_chance_and_draws(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    values, dropped = batch(N), {}
    for conditioner in conditioners(tmp_path):
        value = values[conditioner.key]
        got = drop_values(conditioner, value, generator)
        assert got.dtype == value.dtype
        changed = (got != value).reshape(N, -1).any(1)
        null = conditioner.null(1, value).expand_as(value)
        assert torch.equal(got[changed], null[changed])
        share = changed.float().mean().item()
        assert share == pytest.approx(conditioner.drop_prob, abs=0.025), conditioner.key
        dropped[conditioner.key] = changed.float()
    table = torch.stack(list(dropped.values()))
    correlation = torch.corrcoef(table) - torch.eye(len(table))
    assert correlation.abs().max() < 0.06


def test_all_of_them_at_once(tmp_path: Path) -> None:
    parts = conditioners(tmp_path)
    stage = HalvingStage()
    some = encode_conditions(parts, batch(3), autoencoder=stage)
    none = encode_conditions(parts, null_batch(parts, batch(3)), autoencoder=stage)
    assert some.context is not None
    assert some.concat is not None
    assert some.context.shape == (3, 1 + 4 + 4 + 2, 8)
    assert some.concat.shape == (3, 3 + 3 + 3 + 1, 2, 2)
    assert none.concat is not None
    assert none.concat[0, :, 0, 0].tolist() == [0, 0, 0, 0, 0, 0, -1, -1, -1, 1]
    assert (none.context != some.context).flatten(1).any()
