"""Averaged codes and restarts of idle ones."""

from __future__ import annotations

import pytest
import torch

from ldm.autoencoders.quantizer import VectorQuantizer


def latents(*rows: list[float]) -> torch.Tensor:
    """Tokens as a map (1, dim, n, 1)."""
    return torch.tensor(rows).t()[None, :, :, None].contiguous()


def train_on(layer: VectorQuantizer, *parts: torch.Tensor) -> torch.Tensor:
    """One batch, perhaps in parts; the loss of the last part."""
    for part in parts:
        loss = layer(part).loss
    layer.update_codebook()
    return loss


def quantizer(codes: list[list[float]], **options: object) -> VectorQuantizer:
    layer = VectorQuantizer(len(codes), len(codes[0]), **options)  # type: ignore[arg-type]
    with torch.no_grad():
        layer.embedding.weight.copy_(torch.tensor(codes))
    return layer.train()


def test_published_state_has_the_codes_alone() -> None:
    assert list(VectorQuantizer(4, 2).state_dict()) == ["embedding.weight"]
    full = VectorQuantizer(4, 2, ema_decay=0.9, restart_after=3)
    assert set(full.state_dict()) == {"embedding.weight", "ema_count", "ema_sum", "idle"}


def test_average_of_the_latents_that_chose_a_code() -> None:
    layer = quantizer([[0.0, 0.0], [10.0, 0.0]], ema_decay=0.75)
    train_on(layer, latents([1.0, 0.0], [3.0, 0.0]), latents([10.0, 4.0]))
    # counts start at 1: code 0 has (0.75 * 0 + 0.25 * 4) / (0.75 * 1 + 0.25 * 2),
    # code 1 (0.75 * (10, 0) + 0.25 * (10, 4)) / 1
    assert torch.allclose(layer.embedding.weight[0], torch.tensor([0.8, 0.0]), atol=1e-4)
    assert torch.allclose(layer.embedding.weight[1], torch.tensor([10.0, 1.0]), atol=1e-3)
    assert not layer.embedding.weight.requires_grad


def test_average_converges_to_the_clusters_and_only_commits() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = quantizer([[-0.1, 0.0], [0.1, 0.0]], ema_decay=0.9)
    for _ in range(100):
        noise = 0.1 * torch.randn(64, 2, generator=generator)
        centres = torch.tensor([[-2.0, 1.0], [3.0, -1.0]]).repeat(32, 1)
        z = latents(*(centres + noise).tolist()).requires_grad_()
        loss = train_on(layer, z)
    centres = torch.tensor([[-2.0, 1.0], [3.0, -1.0]])
    assert torch.allclose(layer.embedding.weight, centres, atol=0.05)
    codes = layer.lookup(layer.nearest(z)).detach()
    assert torch.allclose(loss, (codes - z).square().mean(), atol=1e-4)


def test_no_upkeep_in_evaluation() -> None:
    layer = quantizer([[0.0, 0.0], [5.0, 5.0]], ema_decay=0.5, restart_after=1)
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    train_on(layer.eval(), latents([1.0, 1.0]))
    with torch.no_grad():
        train_on(layer.train(), latents([1.0, 1.0]))
    for key, value in layer.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_idle_code_restarts_on_a_latent(ema_decay: float | None) -> None:
    layer = quantizer([[0.0, 0.0], [9.0, 9.0]], restart_after=3, ema_decay=ema_decay)
    z = latents([0.5, 0.0], [0.5, 0.0])
    for batch in range(3):
        assert layer.idle.tolist() == [0, batch]
        assert torch.equal(layer.embedding.weight[1], torch.tensor([9.0, 9.0]))
        train_on(layer, z, z)  # two parts are one batch
    assert torch.equal(layer.embedding.weight[1], torch.tensor([0.5, 0.0]))
    assert layer.idle.tolist() == [0, 0]
    assert 1 in layer(latents([0.5, 0.0])).indices


def test_restarts_use_up_a_codebook_of_which_all_but_one_code_is_dead() -> None:
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    layer = VectorQuantizer(64, 2, restart_after=2).train()
    for _ in range(12):
        z = torch.randn(4, 2, 8, 8, generator=generator) + 5
        used = len(layer(z).indices.unique())
        layer.update_codebook()
    assert used > 48


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_nothing_is_learned_from_a_forgotten_batch(ema_decay: float | None) -> None:
    layer = quantizer([[0.0, 0.0], [9.0, 9.0]], restart_after=1, ema_decay=ema_decay)
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    layer(latents([float("nan"), 0.0], [float("inf"), 1.0]))
    layer.forget()
    layer.update_codebook()
    for key, value in layer.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_codes_do_not_move_between_the_parts_of_a_batch() -> None:
    layer = quantizer([[0.0, 0.0], [9.0, 9.0]], restart_after=1, ema_decay=0.5)
    before = layer.embedding.weight.clone()
    for _ in range(3):
        layer(latents([1.0, 0.0]))
    assert torch.equal(layer.embedding.weight, before)
    layer.update_codebook()
    assert not torch.equal(layer.embedding.weight, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"ema_decay": 1.0}, "ema_decay must lie in"), ({"restart_after": 0}, "restart_after must")],
)
def test_errors(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VectorQuantizer(4, 2, **options)  # type: ignore[arg-type]
