from __future__ import annotations

import pytest
import torch

from ldm.evaluation.metrics.alignment import clip_score, clip_scores


def test_closed_forms() -> None:
    images = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0], [1.0, 0.0]])
    texts = torch.tensor([[5.0, 0.0], [1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    want = torch.tensor([100, 0, 100 / 2**0.5, 0], dtype=torch.float64)
    assert torch.allclose(clip_scores(images, texts), want)
    mean, std = clip_score(images, texts)
    assert mean == pytest.approx(float(want.mean()))
    assert std == pytest.approx(float(want.std()))
    assert clip_score(images[:1], texts[:1]) == (pytest.approx(100), 0)


def test_equals_torchmetrics_where_no_cosine_is_negative() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = (torch.rand(20, 8, generator=generator) for _ in range(2))
    want = 100 * torch.cosine_similarity(images.double(), texts.double()).mean()
    assert clip_score(images, texts).mean == pytest.approx(float(want), rel=1e-12)


def test_wrong_input() -> None:
    for images, texts in (((3, 4), (3, 5)), ((3, 4), (2, 4)), ((0, 4), (0, 4)), ((4,), (4,))):
        with pytest.raises(ValueError, match="are not both"):
            clip_score(torch.ones(images), torch.ones(texts))
    with pytest.raises(ValueError, match="NaN"):
        clip_score(torch.ones(2, 2) * torch.nan, torch.ones(2, 2))
