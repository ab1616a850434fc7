from __future__ import annotations

import io
import json
import logging
import pickle
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from ldm.data.framing import make_framing
from ldm.data.shards.dataset import Shards
from ldm.data.shards.decoding import read_captions
from ldm.data.shards.listing import list_shards
from ldm.data.shards.plan import Place, Plan, process_place
from ldm.data.shards.reader import count_samples, read_shard, shard_sizes
from ldm.errors import DataError

FRAME = make_framing(8)

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def encoded(number: int, form: str = "png", size: tuple[int, int] = (10, 8)) -> bytes:
    """A picture whose grey is its number, for up to 256 pictures."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (number,) * 3).save(buffer, form)
    return buffer.getvalue()


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def write(path: Path, samples: list[dict[str, bytes]], first: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, files in enumerate(samples, start=first):
            for ending, data in files.items():
                add(tar, f"{number:05d}.{ending}", data)
    return path


def sample(number: int) -> dict[str, bytes]:
    return {
        "json": json.dumps({"caption": f"json {number}", "width": 10}).encode(),
        "png": encoded(number),
        "txt": f"number {number}".encode(),
        "cls": str(number % 3).encode(),
    }


def make(root: Path, sizes: tuple[int, ...] = (3, 5, 1, 4)) -> Path:
    first = 0
    for i, size in enumerate(sizes):
        write(root / f"{i:05d}.tar", [sample(first + k) for k in range(size)], first)
        first += size
    return root


def numbers(items: Any) -> list[int]:
    return [round(float((item["image"].mean() + 1) * 127.5)) for item in items]


def unbatched(items: Any) -> Any:
    return items


def epoch_of(data: Shards, workers: int, world: int = 1) -> list[list[int]]:
    """What each process gets in an epoch."""
    got = []
    for rank in range(world):
        data._place = Place(rank, world)
        loader = DataLoader(data, batch_size=1, num_workers=workers, collate_fn=unbatched)
        got.append(numbers(batch[0] for batch in loader))
    return got


def test_entries(tmp_path: Path) -> None:
    make(tmp_path)
    first = next(iter(Shards(tmp_path, FRAME, classes=3, shuffle=False)))
    assert first["image"].shape == (3, 8, 8)
    assert first["image"].dtype == torch.float32
    assert (first["caption"], first["class_label"]) == ("number 0", 0)
    other = Shards(
        tmp_path, FRAME, "json.caption", shuffle=False, tokenizer=lambda t: torch.tensor([[len(t)]])
    )
    second = list(other)[1]
    assert (second["caption"], second["tokens"].tolist()) == ("json 1", [6])
    assert set(next(iter(Shards(tmp_path, FRAME, caption=None)))) == {"image"}


@pytest.mark.parametrize("form", ["jpeg", "png", "webp"])
def test_image_formats(tmp_path: Path, form: str) -> None:
    ending = {"jpeg": "jpg"}.get(form, form)
    write(tmp_path / "a.tar", [{ending: encoded(90, form)}])
    assert numbers(Shards(tmp_path, FRAME, caption=None)) == [90]


@pytest.mark.parametrize(("workers", "world"), [(0, 1), (2, 1), (0, 2), (3, 2), (6, 3)])
def test_every_sample_once_whatever_the_number_of_workers(
    tmp_path: Path, workers: int, world: int
) -> None:
    data = Shards(make(tmp_path, (3, 5, 1, 3)), FRAME, buffer=4)  # 12 samples, 4 shards
    for epoch in (0, 1):
        data.set_epoch(epoch)
        got = epoch_of(data, workers, world)
        assert {len(part) for part in got} == {12 // world}
        assert sorted(number for part in got for number in part) == list(range(12))
        data._place = Place(0, world)
        assert len(data) == 12 // world


@pytest.mark.parametrize(("world", "workers"), [(1, 5), (2, 3), (3, 1), (5, 4), (9, 2), (20, 3)])
@pytest.mark.parametrize("length", [13, 8, 30])
def test_a_plan_loses_nothing_and_is_the_same_length_everywhere(
    world: int, workers: int, length: int
) -> None:
    plan = Plan([3, 5, 0, 1, 4], length, shuffle=True, seed=3)
    taken: Counter[int] = Counter()
    for rank in range(world):
        count = 0
        for worker in range(workers):
            start, n = plan.share(Place(rank, world), worker, workers)
            spans = list(plan.spans(2, start, n))
            assert sum(s.stop - s.start for s in spans) == n
            for s in spans:
                taken.update(range(s.offset + s.start, s.offset + s.stop))
            count += n
        assert count == plan.per_process(world)
    assert sum(taken.values()) - length < world
    if length >= 13:
        assert set(taken) == set(range(13))
    elif length % world == 0:
        assert max(taken.values()) == 1


def test_order_depends_on_seed_and_epoch_only(tmp_path: Path) -> None:
    make(tmp_path, (9, 9, 9))
    data = Shards(tmp_path, FRAME, buffer=5, seed=1)
    first = numbers(data)
    assert first == numbers(Shards(tmp_path, FRAME, buffer=5, seed=1))
    assert first != list(range(27))
    data.set_epoch(1)
    second = numbers(data)
    assert first != second
    data.set_epoch(0)
    assert numbers(data) == first
    assert numbers(Shards(tmp_path, FRAME, buffer=5, seed=2)) not in (first, second)
    assert numbers(Shards(tmp_path, FRAME, shuffle=False)) == list(range(27))


def test_crops_depend_on_the_place_in_the_set_only(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    write(tmp_path / "a.tar", [{"png": buffer.getvalue(), "cls": b"%d" % i} for i in range(6)])
    frame = make_framing(8, resize="keep", crop="random", flip=0.5)

    def crops(epoch: int, **options: Any) -> dict[int, torch.Tensor]:
        data = Shards(tmp_path, frame, caption=None, classes=6, **options)
        data.set_epoch(epoch)
        return {item["class_label"]: item["image"] for item in data}

    shuffled, plain, later = crops(0), crops(0, shuffle=False), crops(1)
    assert all(torch.equal(shuffled[i], plain[i]) for i in range(6))
    assert not torch.equal(plain[0], plain[1])
    assert not any(torch.equal(later[i], plain[i]) for i in range(6))


@pytest.mark.parametrize("workers", [0, 2, 3])
def test_an_epoch_goes_on_where_it_was_left(tmp_path: Path, workers: int) -> None:
    make(tmp_path, (9, 2, 9))
    broken = {**sample(20), "png": b"no image"}
    write(tmp_path / "9.tar", [sample(21), broken, sample(22), sample(23)])

    def batches(data: Shards) -> list[list[int]]:
        loader = DataLoader(data, 3, num_workers=workers, collate_fn=unbatched)
        return [numbers(batch) for batch in loader]

    data = Shards(tmp_path, FRAME, buffer=6)
    data.set_epoch(4)
    whole = batches(data)
    for done in (1, 4, 5):
        resumed = Shards(tmp_path, FRAME, buffer=6)
        resumed.resume_at(4, done, 3)
        resumed.set_epoch(4)  # as the callback says after a restart
        assert batches(resumed) == whole[done:]
        resumed.set_epoch(5)
        assert sum(map(len, batches(resumed))) == sum(map(len, whole))


def test_broken_samples_are_left_out_counted_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = [sample(i) for i in range(4)]
    bad: list[dict[str, bytes]] = [
        {"png": encoded(9)[:40], "txt": b"x", "cls": b"0"},
        {"txt": b"alone", "cls": b"0"},
        {"png": encoded(9), "cls": b"0"},
        {"png": encoded(9), "txt": b"  ", "cls": b"0"},
        {"png": encoded(9), "txt": b"x", "cls": b"3"},
        {"png": encoded(9), "txt": b"x"},
        {"png": encoded(9, size=(8, 7)), "txt": b"x", "cls": b"0"},
        {"png": encoded(9, size=(40, 8)), "txt": b"x", "cls": b"0"},
    ]
    write(tmp_path / "a.tar", [*good[:2], *bad, *good[2:]])
    data = Shards(tmp_path, FRAME, classes=3, min_size=8, max_aspect=2)
    loader = DataLoader(data, batch_size=1, num_workers=1, collate_fn=unbatched)
    with caplog.at_level(logging.WARNING):
        got = numbers(batch[0] for batch in loader)
    assert Counter(got) == {0: 3, 1: 3, 2: 3, 3: 3}  # the epoch keeps its length
    counts = data.skips.counts()  # of the worker's process; three passes at most
    assert set(counts) == {
        *("unreadable image", "no image", "no caption"),
        *("no class", "too small", "too elongated"),
    }
    assert counts["no caption"] == 2 * counts["no image"] > 0
    list(data)
    assert "sample '00002' of" in caplog.text


def test_nothing_usable_is_one_error(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", [{"txt": b"x"}, {"png": b"y"}])
    with pytest.raises(DataError, match=r"not one of 2 samples .* usable: .*'no image': 1"):
        list(Shards(tmp_path, FRAME))


def test_a_shard_that_is_cut_short(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, (4, 4))
    shard = tmp_path / "00000.tar"
    data = shard.read_bytes()
    with tarfile.open(shard) as tar:
        start = tar.getmember("00002.png").offset_data
    shard.write_bytes(data[: start + 20])
    with caplog.at_level(logging.WARNING):
        shards = Shards(tmp_path, FRAME, shuffle=False)
        got = numbers(shards)
    assert "damaged after" in caplog.text
    assert set(got) == {0, 1, 4, 5, 6, 7}
    assert len(got) == len(shards)
    assert shards.skips.counts()["damaged shard"] >= 1
    assert numbers(Shards(tmp_path, FRAME, sizes=4, buffer=3))


def test_sizes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, (3, 5))
    paths = list_shards(tmp_path)
    assert shard_sizes(paths, None) == [count_samples(path) for path in paths] == [3, 5]
    assert [len(list(read_shard(path, print))) for path in paths] == [3, 5]
    (tmp_path / "00001_stats.json").write_text('{"count": 9, "successes": 7}')
    assert shard_sizes(paths, None) == [3, 7]
    (tmp_path / "sizes.json").write_text('{"00000.tar": 2, "00001.tar": 4}')
    assert shard_sizes(paths, None) == [2, 4]
    assert shard_sizes(paths, 6) == [6, 6]
    (tmp_path / "other.json").write_text('{"00000.tar": 1}')
    with pytest.raises(DataError, match=r"other.json' must give the number of samples of .*00001"):
        shard_sizes(paths, tmp_path / "other.json")
    with pytest.raises(DataError, match=r"https://x/0.tar' is not known: set sizes"):
        shard_sizes(["https://x/0.tar"], None)
    (tmp_path / "bad.tar").write_text("no tar")
    with pytest.raises(DataError, match=r"cannot read shard .*bad.tar"):
        count_samples(str(tmp_path / "bad.tar"))


def test_lists_of_shards(tmp_path: Path) -> None:
    make(tmp_path, (1, 1, 1))
    names = [str(tmp_path / f"{i:05d}.tar") for i in range(3)]
    assert list_shards(tmp_path) == list_shards(tmp_path / "*.tar") == names
    assert list_shards(str(tmp_path / "{00000..00001}.tar")) == names[:2]
    assert list_shards([names[2], names[0]]) == [names[2], names[0]]
    assert list_shards("https://x/{1..2}.tar") == ["https://x/1.tar", "https://x/2.tar"]
    with pytest.raises(DataError, match=r"00003.tar' does not exist \(1 of 4\)"):
        list_shards(str(tmp_path / "{00000..00003}.tar"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="there are no shards"):
        list_shards(tmp_path / "empty")


def test_a_pipe_is_read_like_a_file(tmp_path: Path) -> None:
    make(tmp_path, (3,))
    data = Shards(f"pipe:cat {tmp_path}/00000.tar", FRAME, sizes=3, shuffle=False)
    assert numbers(data) == [0, 1, 2]


def test_shards_are_held_out(tmp_path: Path) -> None:
    make(tmp_path, (2, 2, 2))
    train = Shards(tmp_path, FRAME, split="train")
    held_out = Shards(tmp_path, FRAME, split="validation", shuffle=False)
    assert sorted(numbers(train)) == [0, 1, 2, 3]
    assert numbers(held_out) == [4, 5]
    for options in ({"split": "test"}, {"split": "train", "validation_shards": 3}):
        with pytest.raises(DataError, match=next(reversed(options))):
            Shards(tmp_path, FRAME, **options)


def test_an_epoch_may_be_shorter_or_longer(tmp_path: Path) -> None:
    make(tmp_path, (3, 3))
    short = Shards(tmp_path, FRAME, epoch_size=4)
    assert len(set(numbers(short))) == len(short) == 4
    assert Counter(numbers(Shards(tmp_path, FRAME, epoch_size=12))) == dict.fromkeys(range(6), 2)


def test_captions_that_are_none() -> None:
    for content in (b"{", b"[]", b'{"caption": null}', b"5", b"null", b"[" * 100_000, b'{"a": 1}'):
        assert read_captions({"json": content}, "json.caption") == ()
    assert read_captions({"txt": b"\xff"}, "txt") == ()
    assert read_captions({"json": b'{"caption": " a\\nb "}'}, "json.caption") == ("a b",)


def test_it_can_be_sent_to_another_process(tmp_path: Path) -> None:
    data = Shards(make(tmp_path), FRAME, shuffle=False)
    data._place = Place(1, 2)
    assert pickle.loads(pickle.dumps(data))._place == Place(1, 2)
    with pytest.raises(DataError, match="nothing to tokenise"):
        Shards(tmp_path, FRAME, caption=None, tokenizer=lambda t: torch.zeros(1))


def test_the_place_is_that_of_the_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Shards(make(tmp_path, (3, 5, 1, 3)), FRAME)
    assert len(data) == 12
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert process_place() == Place(2, 3)
    assert len(list(data)) == len(data) == 4
