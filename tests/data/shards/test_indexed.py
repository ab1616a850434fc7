from __future__ import annotations

import gzip
import logging
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ldm.data.framing import make_framing
from ldm.data.latents.writer import ItemPairs, same
from ldm.data.shards.dataset import Shards
from ldm.data.shards.indexed import ShardItems
from ldm.errors import DataError
from tests.data.shards.test_dataset import FRAME, encoded, make, numbers, sample, unbatched, write


def items(data: Dataset[Any]) -> list[dict[str, Any]]:
    return [data[i] for i in range(len(data))]  # type: ignore[arg-type]


@pytest.mark.parametrize("epoch", [0, 3])
def test_they_are_those_of_the_stream_in_its_stored_order(tmp_path: Path, epoch: int) -> None:
    noise = np.random.default_rng(0)
    make(tmp_path, (3, 5, 1, 4))
    frame = make_framing(6, resize="keep", crop="random", flip=0.5)
    options: dict[str, Any] = {"classes": 3, "tokenizer": lambda t: torch.tensor([len(t)])}
    stream = Shards(tmp_path, frame, shuffle=False, seed=2, **options)
    numbered = ShardItems(Shards(tmp_path, frame, seed=2, **options))
    stream.set_epoch(epoch)
    numbered.set_epoch(epoch)
    expected = list(stream)
    assert len(numbered) == len(expected) == 13
    for i in noise.permutation(13).tolist():  # in any order
        assert expected[i].keys() == numbered[i].keys()
        assert all(same(value, numbered[i][name]) for name, value in expected[i].items())
    with pytest.raises(IndexError):
        numbered[13]


def test_workers_read_what_they_are_asked_for(tmp_path: Path) -> None:
    data = ShardItems(Shards(make(tmp_path), FRAME))
    loader = DataLoader(data, batch_size=3, num_workers=2, collate_fn=unbatched)
    assert numbers(item for batch in loader for item in batch) == list(range(13))


def test_the_next_one_is_taken_instead_of_what_is_broken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = {**sample(9), "png": encoded(9)[:40]}
    write(tmp_path / "0.tar", [sample(0), broken, {"txt": b"alone"}])
    write(tmp_path / "1.tar", [sample(3), sample(4), sample(5)])
    whole = (tmp_path / "1.tar").read_bytes()
    with tarfile.open(tmp_path / "1.tar") as tar:
        start = tar.getmember("00001.png").offset_data
    (tmp_path / "1.tar").write_bytes(whole[: start + 20])
    with caplog.at_level(logging.WARNING):
        data = ShardItems(Shards(tmp_path, FRAME, sizes=3))
        assert numbers(items(data)) == [0, 3, 3, 3, 0, 0]
    assert "sample '00001' of" in caplog.text
    assert "is cut short" in caplog.text
    assert "1.tar' has 2 samples, not 3: the next one" in caplog.text


def test_what_cannot_be_read_at_all_is_one_line(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", [{"txt": b"x"}, {"png": b"y"}])
    with pytest.raises(DataError, match=r"not one of 2 samples of .*a.tar'.*'no image': 1"):
        ShardItems(Shards(tmp_path, FRAME))[1]
    packed = gzip.compress((tmp_path / "a.tar").read_bytes())
    (tmp_path / "a.tar").write_bytes(packed)
    with pytest.raises(DataError, match=r"cannot read archive .*uncompressed .tar"):
        ShardItems(Shards(tmp_path, FRAME))[0]
    with pytest.raises(DataError, match=r"'https://x/1.tar' is no local file"):
        ShardItems(Shards("https://x/{1..2}.tar", FRAME, sizes=3))


def test_a_latent_cache_takes_shards_and_no_other_stream(tmp_path: Path) -> None:
    make(tmp_path, (3, 2))
    frames = [make_framing(6, flip=flip) for flip in (0, 1)]
    pairs = ItemPairs("train", *(Shards(tmp_path, frame) for frame in frames))
    plain, mirrored = pairs[4]
    assert mirrored is not None
    assert plain["caption"] == mirrored["caption"] == "number 4"
    assert pairs.changing_entry() is None

    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any: ...

    with pytest.raises(DataError, match="the train set, a Stream, is a stream"):
        ItemPairs("train", Stream())
