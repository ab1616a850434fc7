from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ldm.compat.compvis.weights import (
    SCHEDULE,
    TRAINING_ONLY,
    compvis_name,
    from_compvis,
    is_compvis,
    is_training_only,
    refuse_unsupported,
    to_compvis,
)
from ldm.diffusion.schedule import NoiseSchedule
from ldm.errors import CheckpointError

PAIRS = {
    "logvar": "weighting.logvar",
    "scale_factor": "scale_factor",
    "model.diffusion_model.input_blocks.0.0.weight": "denoiser.input_blocks.0.0.weight",
    "first_stage_model.encoder.conv_in.bias": "autoencoder.encoder.conv_in.bias",
    "cond_stage_model.embedding.weight": "conditioners.0.embedding.weight",
    "encoder.conv_in.weight": "encoder.conv_in.weight",
    "quantize.embedding.weight": "quantize.embedding.weight",
    "loss.discriminator.main.0.weight": "objective.discriminator.main.0.weight",
}
SHADOW = "model_ema.diffusion_modelinput_blocks00weight"


def buffers(**changes: float) -> dict[str, Tensor]:
    schedule = NoiseSchedule(timesteps=10, start=changes.get("start", 1e-3), end=2e-2)
    return {key: getattr(schedule, key).clone() for key in SCHEDULE}


def theirs() -> dict[str, Tensor]:
    return {key: torch.full((2,), float(i)) for i, key in enumerate(PAIRS)}


def test_names_both_ways() -> None:
    ours = from_compvis(theirs())
    assert list(ours) == list(PAIRS.values())
    assert [compvis_name(key) for key in ours] == list(PAIRS)


def test_round_trip_with_schedule_and_average() -> None:
    ours = from_compvis(theirs())
    name = "denoiser.input_blocks.0.0.weight"
    shadow = {name: torch.tensor([7.0, 8.0]), "conditioners.0.embedding.weight": torch.zeros(2)}
    again = to_compvis(ours, buffers(), shadow, num_updates=5)
    assert list(again)[: 2 + len(SCHEDULE)] == ["logvar", *SCHEDULE, "scale_factor"]
    assert again["model_ema.num_updates"].dtype == torch.int32
    assert again["model_ema.num_updates"] == 5
    assert [key for key in again if key.startswith("model_ema.d")] == ["model_ema.decay", SHADOW]
    live, averaged = (from_compvis(again, buffers(), ema=ema) for ema in (False, True))
    assert live.keys() == averaged.keys() == ours.keys()
    for key, value in ours.items():
        torch.testing.assert_close(live[key], value)
        torch.testing.assert_close(averaged[key], shadow[name] if key == name else value)


def test_detection() -> None:
    for key in ("model.diffusion_model.x", "first_stage_model.x", "loss.x", "model_ema.decay"):
        assert is_compvis([key])
    assert not is_compvis(["model.denoiser.x", "denoiser.x", "encoder.conv_in.weight"])


def test_another_schedule_is_an_error() -> None:
    state = theirs() | buffers()
    assert not from_compvis(state, buffers()).keys() & set(SCHEDULE)
    assert not from_compvis(state, None).keys() & set(SCHEDULE)
    with pytest.raises(CheckpointError, match=r"betas\[\d\] is 0\.0\d+, not 0\.0\d+; use the con"):
        from_compvis(state, buffers(start=1.5e-3))
    with pytest.raises(CheckpointError, match="has 10 steps, the config's 20"):
        from_compvis(state, dict(NoiseSchedule(timesteps=20).named_buffers()))
    close = {key: value * (1 + 4e-6) for key, value in buffers().items()}
    far = {key: value * (1 + 4e-5) for key, value in buffers().items()}
    from_compvis(close, buffers())
    with pytest.raises(CheckpointError):
        from_compvis(far, buffers())


def test_half_precision_files_are_compared_at_their_precision() -> None:
    from_compvis({key: value.half() for key, value in buffers().items()}, buffers())


def test_average_of_nothing_is_an_error() -> None:
    with pytest.raises(CheckpointError, match="1 averaged weights belong to no weight"):
        from_compvis(theirs() | {"model_ema.diffusion_modelx": torch.zeros(2)})


def test_weights_without_a_published_name() -> None:
    with pytest.raises(CheckpointError, match=r"conditioners\.1\.x has no name"):
        to_compvis({"conditioners.1.x": torch.zeros(1)})


# -- autoencoders by themselves ---------------------------------------------------------------


def test_averaged_weights_of_an_autoencoder() -> None:
    """``use_ema`` of VQModel averages everything, the discriminator too."""
    keys = ("encoder.conv_in.weight", "quantize.embedding.weight", "loss.discriminator.main.0.bias")
    live = {key: torch.full((2,), float(i)) for i, key in enumerate(keys)}
    averaged = {"model_ema." + key.replace(".", ""): value + 10 for key, value in live.items()}
    counters = {"model_ema.decay": torch.tensor(0.9), "model_ema.num_updates": torch.tensor(4)}
    for ema, shift in ((True, 10), (False, 0)):
        ours = from_compvis(live | averaged | counters, ema=ema)
        assert list(ours) == [*keys[:2], "objective.discriminator.main.0.bias"]
        assert all((value == i + shift).all() for i, value in enumerate(ours.values()))
    pruned = {key: value for key, value in live.items() if not key.startswith("loss.")}
    assert (from_compvis(pruned | averaged)["encoder.conv_in.weight"] == 10).all()


def test_state_of_training_has_no_published_name() -> None:
    assert TRAINING_ONLY == ("quantize.ema_count", "quantize.ema_sum", "quantize.idle")
    prefixed = [f"autoencoder.{name}" for name in TRAINING_ONLY]
    for key in (*TRAINING_ONLY, *prefixed):
        assert is_training_only(key)
    for key in ("quantize.embedding.weight", "encoder.quantize.idle.weight", "unquantize.idle"):
        assert not is_training_only(key)
    state = {key: torch.ones(1) for key in ("quantize.embedding.weight", *TRAINING_ONLY, *prefixed)}
    assert list(to_compvis(state)) == ["quantize.embedding.weight"]


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_gumbel_quantisers_are_refused(prefix: str) -> None:
    with pytest.raises(CheckpointError, match=r"quantize\.embed\.weight: a GumbelVQ autoencoder"):
        refuse_unsupported([f"{prefix}encoder.conv_in.weight", f"{prefix}quantize.embed.weight"])
    refuse_unsupported(["quantize.embedding.weight"])


# -- a first stage that also encodes the condition --------------------------------------------


def twice(**changes: Tensor) -> dict[str, Tensor]:
    names = ("encoder.conv_in.weight", "quantize.embedding.weight")
    state = {f"first_stage_model.{name}": torch.full((2,), i + 1.0) for i, name in enumerate(names)}
    copies = {key.replace("first_stage", "cond_stage"): v.clone() for key, v in state.items()}
    return state | copies | changes


def test_the_second_copy_of_a_first_stage_is_dropped_and_written_again() -> None:
    ours = from_compvis(twice())
    assert list(ours) == [
        "autoencoder.encoder.conv_in.weight",
        "autoencoder.quantize.embedding.weight",
    ]
    again = to_compvis(ours, first_stage_twice=True)
    assert list(again) == list(twice())
    assert all(torch.equal(again[key], value) for key, value in twice().items())
    assert not any(key.startswith("cond_stage_model.") for key in to_compvis(ours))


@pytest.mark.parametrize("value", [torch.tensor([1.0, 2.0]), torch.zeros(3)])
def test_two_different_first_stages_are_refused(value: Tensor) -> None:
    name = "encoder.conv_in.weight"
    with pytest.raises(CheckpointError, match=rf"^first_stage_model\.{name} and cond_.* differ"):
        from_compvis(twice(**{f"cond_stage_model.{name}": value}))


def test_half_a_second_copy_is_left_to_the_strict_load() -> None:
    state = twice()
    del state["cond_stage_model.quantize.embedding.weight"]
    assert "conditioners.0.encoder.conv_in.weight" in from_compvis(state)
