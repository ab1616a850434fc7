from __future__ import annotations

import json
import logging
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from ldm.data.folder import ImageFolder
from ldm.errors import DataError

CIFAR = Path(__file__).parents[3] / "shared" / "data" / "cifar10"


def save(path: Path, size: tuple[int, int] = (40, 32), grey: int | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if grey is None:
        grey = sum(path.name.encode()) % 256
    Image.new("RGB", size, (grey, grey, grey)).save(path)
    return path


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    for i in range(12):
        save(tmp_path / f"{i:02}.png", grey=20 * i)
    return tmp_path


def grey(item: dict) -> int:
    return round(float((item["image"].mean() + 1) * 127.5))


def test_nested_files_of_all_kinds_are_found(tmp_path: Path) -> None:
    names = ["a.jpg", "deep/er/b.JPEG", "deep/c.png", "d.webp"]
    for name in names:
        save(tmp_path / name)
    save(tmp_path / ".hidden" / "x.png")
    save(tmp_path / "._a.jpg")
    (tmp_path / "notes.md").write_text("x")
    dataset = ImageFolder(tmp_path, 16, split="all")
    assert sorted(dataset.files) == sorted(names)
    assert set(dataset[0]) == {"image"}
    assert dataset[3]["image"].shape == (3, 16, 16)
    assert ImageFolder(tmp_path, (16, 24), split="all")[0]["image"].shape == (3, 16, 24)
    with pytest.raises(IndexError):
        dataset[4]


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere" / "a.png")
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(root)
    assert ImageFolder(root, 16, split="all").files == ["link/a.png"]


def test_missing_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.*does not exist"):
        ImageFolder(tmp_path / "nowhere", 32)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"holds no \.jpg.*put images"):
        ImageFolder(tmp_path, 32)


def test_splits_are_disjoint_and_stay_when_files_are_added(tmp_path: Path) -> None:
    for i in range(60):
        save(tmp_path / f"{i}.png", (4, 4))
    options = {"size": 4, "validation_fraction": 0.3}
    train = set(ImageFolder(tmp_path, split="train", **options).files)
    held_out = set(ImageFolder(tmp_path, split="validation", **options).files)
    assert train.isdisjoint(held_out)
    assert len(train | held_out) == 60
    assert 8 <= len(held_out) <= 28
    for i in range(60, 90):
        save(tmp_path / f"{i}.png", (4, 4))
    assert train < set(ImageFolder(tmp_path, split="train", **options).files)
    assert held_out < set(ImageFolder(tmp_path, split="validation", **options).files)
    other = ImageFolder(tmp_path, split="validation", seed=1, **options).files
    assert not held_out < set(other)


def test_tiny_folders_still_have_both_splits(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    with pytest.raises(DataError, match="validation split of 1 images is empty"):
        ImageFolder(tmp_path, 16, split="validation")
    save(tmp_path / "b.png")
    for fraction in (0.001, 0.999):
        sizes = [
            len(ImageFolder(tmp_path, 16, split=split, validation_fraction=fraction))
            for split in ("train", "validation")
        ]
        assert sizes == [1, 1]
    assert len(ImageFolder(tmp_path, 16, validation_fraction=0.0)) == 2


def test_captions_beside_the_images(plain: Path) -> None:
    for i in range(12):
        (plain / f"{i:02}.txt").write_text(f" number  {i} ", encoding="utf-8")
    dataset = ImageFolder(plain, 16, split="all")
    assert dataset[3]["caption"] == "number 3"
    tokenised = ImageFolder(
        plain, 16, split="all", captions="txt", tokenizer=lambda text: torch.tensor([[len(text)]])
    )
    assert tokenised[11]["tokens"].tolist() == [9]
    assert "caption" not in ImageFolder(plain, 16, split="all", captions="none")[0]


def test_captions_from_metadata(plain: Path) -> None:
    save(plain / "sub" / "x.png")
    lines = [{"file_name": f"{i:02}.png", "text": f"number {i}"} for i in range(12)]
    (plain / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    (plain / "sub" / "metadata.jsonl").write_text('{"file_name": "x.png", "caption": "an x"}')
    dataset = ImageFolder(plain, 16, split="all", captions="metadata")
    captions = {file: dataset[i]["caption"] for i, file in enumerate(dataset.files)}
    assert captions["07.png"] == "number 7"
    assert captions["sub/x.png"] == "an x"


def test_missing_captions(plain: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DataError, match=r"12 of 12 images have no caption.*00.png.*metadata"):
        ImageFolder(plain, 16, captions="metadata")
    (plain / "00.txt").write_text("zero")
    with pytest.raises(DataError, match=r"11 of 12 images have no caption.*01.png.*\.txt"):
        ImageFolder(plain, 16, captions="txt")
    with caplog.at_level(logging.WARNING):
        dataset = ImageFolder(plain, 16, split="all")
    assert "11 of 12" in caplog.text
    assert [dataset[i]["caption"] for i in (0, 1)] == ["zero", ""]
    (plain / "00.txt").unlink()
    with pytest.raises(DataError, match="no captions to tokenise"):
        ImageFolder(plain, 16, tokenizer=lambda text: torch.zeros(1))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not JSON"),
        ("[]", "line 2 needs"),
        ('{"file_name": "a.png"}', "line 2 needs"),
    ],
)
def test_bad_metadata_names_the_line(plain: Path, line: str, message: str) -> None:
    (plain / "metadata.jsonl").write_text('{"file_name": "00.png", "text": "x"}\n' + line)
    with pytest.raises(DataError, match=message):
        ImageFolder(plain, 16)


def test_a_caption_that_is_no_text_is_named(plain: Path) -> None:
    for i in range(12):
        (plain / f"{i:02}.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match=r"00.txt.*UTF-8"):
        ImageFolder(plain, 16, split="all")[0]


def test_classes_are_the_first_folders(tmp_path: Path) -> None:
    for name in ("dog/a.png", "cat/b.png", "cat/young/c.png"):
        save(tmp_path / name)
    dataset = ImageFolder(tmp_path, 16, split="all")
    assert dataset.classes == ("cat", "dog")
    assert [dataset[i]["class_label"] for i in range(3)] == [0, 0, 1]
    assert "class_label" not in ImageFolder(tmp_path, 16, split="all", classes="none")[0]
    save(tmp_path / "loose.png")
    assert ImageFolder(tmp_path, 16, split="all").classes == ()
    with pytest.raises(DataError, match=r"loose.png.*class folder"):
        ImageFolder(tmp_path, 16, classes="folder")


def test_a_broken_image_is_skipped_with_one_warning(
    plain: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (plain / "03.png").write_bytes((plain / "03.png").read_bytes()[:60])
    (plain / "04.png").write_text("no image")
    dataset = ImageFolder(plain, 16, split="all")
    with caplog.at_level(logging.WARNING):
        assert [grey(dataset[3]), grey(dataset[3]), grey(dataset[4])] == [100, 100, 100]
    assert dataset.broken_files == {"03.png", "04.png"}
    assert len(caplog.records) == 2
    assert "03.png" in caplog.records[0].getMessage()
    with pytest.raises(DataError, match=r"03.png"):
        ImageFolder(plain, 16, split="all", broken="error")[3]


def test_the_last_image_is_replaced_by_the_first(plain: Path) -> None:
    (plain / "11.png").write_text("no image")
    assert grey(ImageFolder(plain, 16, split="all")[11]) == 0
    for i in range(11):
        (plain / f"{i:02}.png").write_text("no image")
    with pytest.raises(DataError, match=r"not one of 12 images is readable; the first: .*00.png"):
        ImageFolder(plain, 16, split="all")[0]


def test_an_image_below_the_crop(plain: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = ImageFolder(plain, 64, split="all")
    with caplog.at_level(logging.WARNING):
        assert dataset[0]["image"].shape == dataset[1]["image"].shape == (3, 64, 64)
    assert len(caplog.records) == 1
    assert "00.png' of 40 x 32 pixels" in caplog.text
    assert "enlarged 2.00 times" in caplog.text
    with pytest.raises(DataError, match=r"00.png.*enlarged.*small=upscale"):
        ImageFolder(plain, 64, split="all", small="error")[0]


def test_random_crops_depend_on_seed_epoch_and_index(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    for i in range(4):
        Image.fromarray(noise).save(tmp_path / f"{i}.png")
    options = {"size": 16, "split": "all", "resize": 32, "crop": "random", "flip": 0.5}
    dataset = ImageFolder(tmp_path, **options)
    again = ImageFolder(tmp_path, **options)
    first = [dataset[i]["image"] for i in range(4)]
    assert all(torch.equal(first[i], again[i]["image"]) for i in (3, 1))
    assert not torch.equal(first[0], first[1])
    dataset.set_epoch(1)
    assert not torch.equal(first[0], dataset[0]["image"])
    assert not torch.equal(first[0], ImageFolder(tmp_path, seed=1, **options)[0]["image"])


def test_running_workers_see_the_epoch(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    dataset = ImageFolder(tmp_path, 16, split="all", resize=32, crop="random")
    loader = DataLoader(dataset, num_workers=1, persistent_workers=True)
    first = next(iter(loader))["image"]
    dataset.set_epoch(1)
    second = next(iter(loader))["image"]
    assert not torch.equal(first, second)
    assert torch.equal(second[0], dataset[0]["image"])


@pytest.mark.parametrize(
    "options",
    [
        {"split": "val"},
        {"captions": "csv"},
        {"classes": "all"},
        {"broken": "warn"},
        {"small": "pad"},
        {"crop": "centre"},
        {"validation_fraction": 1.0},
        {"resize": 8},
        {"mode": "CMYK"},
        {"interpolation": "cubic"},
        {"crop_scale": [0.5, 1.0]},
    ],
)
def test_bad_options_are_named(plain: Path, options: dict) -> None:
    with pytest.raises(DataError, match=next(iter(options))):
        ImageFolder(plain, **{"size": 16, **options})


def test_modes_and_rotation_reach_the_tensor(tmp_path: Path) -> None:
    Image.new("RGBA", (16, 16), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.fromarray(np.full((16, 16), 65535, np.uint16)).save(tmp_path / "deep.png")
    Image.new("CMYK", (16, 16), (0, 0, 0, 0)).save(tmp_path / "ink.jpg")
    dataset = ImageFolder(tmp_path, 16, split="all")
    for i in range(3):
        assert dataset[i]["image"].min() > 0.98


@pytest.mark.skipif(not CIFAR.is_dir(), reason="../shared/data/cifar10 is not here")
def test_cifar10_archives_unpack_to_a_folder_with_classes(tmp_path: Path) -> None:
    with tarfile.open(next(iter(sorted(CIFAR.glob("test-*.tar"))))) as archive:
        for _ in range(200):
            member = archive.next()
            assert member is not None
            # early releases of Python 3.10 and 3.11 have no filter
            safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            archive.extract(member, tmp_path, **safely)
    train = ImageFolder(tmp_path, 32, flip=0.5)
    held_out = ImageFolder(tmp_path, 32, split="validation")
    assert len(train) + len(held_out) == 200
    assert len(train.classes) == 10
    assert train.classes[0] == "airplane"
    items = [train[i] for i in range(len(train))]
    labels = Counter(item["class_label"] for item in items)
    assert set(labels) == set(range(10))
    images = torch.stack([item["image"] for item in items])
    assert images.shape[1:] == (3, 32, 32)
    assert 0.2 < images.std() < 0.8


def test_the_number_of_classes_is_checked(tmp_path: Path) -> None:
    for name in ("cat/1.png", "dog/1.png", "eel/1.png"):
        save(tmp_path / name)
    assert len(ImageFolder(tmp_path, 16, split="all", num_classes=3).classes) == 3
    with pytest.raises(DataError, match="has 3 class folders, but num_classes says 2"):
        ImageFolder(tmp_path, 16, split="all", num_classes=2)


def test_it_can_be_built_beside_a_model_on_the_meta_device(plain: Path) -> None:
    """As ``train.py --dry-run`` does."""
    with torch.device("meta"):
        dataset = ImageFolder(plain, 16, split="all")
    assert dataset[0]["image"].device.type == "cpu"


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1), ("RGBA", 4)])
def test_images_of_one_three_and_four_channels(tmp_path: Path, mode: str, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (60, 90, channels), np.uint8)
    Image.fromarray(pixels.squeeze()).save(tmp_path / "a.png")
    whole = ImageFolder(tmp_path, (60, 90), split="all", mode=mode)[0]["image"]
    assert np.array_equal(((whole + 1) * 127.5).round().byte().permute(1, 2, 0).numpy(), pixels)
    assert ImageFolder(tmp_path, (48, 80), split="all", mode=mode)[0]["image"].shape == (
        channels,
        48,
        80,
    )


def test_sixteen_bit_grey_keeps_its_steps(tmp_path: Path) -> None:
    steps = (np.arange(64 * 64, dtype=np.uint16) + 20_000).reshape(64, 64)
    Image.fromarray(steps).save(tmp_path / "ct.png")
    image = ImageFolder(tmp_path, 64, split="all", mode="L")[0]["image"]
    assert image.shape == (1, 64, 64)
    assert torch.allclose(image[0].double(), torch.from_numpy(steps / 32767.5 - 1), atol=1e-6)
    half = ImageFolder(tmp_path, 32, split="all", mode="L", interpolation="area")[0]["image"]
    want = steps.reshape(32, 2, 32, 2).mean((1, 3)) / 32767.5 - 1
    assert torch.allclose(half[0].double(), torch.from_numpy(want), atol=1e-6)


def test_random_crops_are_the_ones_they_always_were(tmp_path: Path) -> None:
    """Column and row of the first pixel and column of the last one, as first recorded."""
    ramp = np.zeros((90, 120, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(120), np.arange(90)[:, None]
    for i in range(3):
        Image.fromarray(ramp).save(tmp_path / f"{i}.png")
    dataset = ImageFolder(tmp_path, 20, "all", seed=5, resize=90, crop="random", flip=0.5)
    recorded = {
        0: [(81, 57, 100), (75, 27, 94), (64, 25, 45)],
        1: [(78, 33, 97), (108, 39, 89), (86, 70, 105)],
    }
    for epoch, crops in recorded.items():
        dataset.set_epoch(epoch)
        images = [((dataset[i]["image"] + 1) * 127.5).round().int() for i in range(3)]
        assert [
            (int(image[0, 0, 0]), int(image[1, 0, 0]), int(image[0, 0, -1])) for image in images
        ] == crops


def test_scaled_crops_depend_on_seed_epoch_and_index(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    for i in range(2):
        Image.fromarray(noise).save(tmp_path / f"{i}.png")
    options = {"size": 16, "split": "all", "crop": "random", "crop_scale": [0.5, 1.0]}
    dataset = ImageFolder(tmp_path, interpolation="area", **options)
    first = [dataset[i]["image"] for i in range(2)]
    assert not torch.equal(first[0], first[1])
    again = ImageFolder(tmp_path, interpolation="area", **options)
    assert torch.equal(again[1]["image"], first[1])
    dataset.set_epoch(1)
    assert not torch.equal(dataset[0]["image"], first[0])


def test_a_crop_at_native_size_is_not_taken_from_a_reduced_jpeg(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (400, 500, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg", quality=95)
    decoded = np.asarray(Image.open(tmp_path / "a.jpg"))
    image = ImageFolder(tmp_path, 32, "all", resize="keep")[0]["image"]
    pixels = ((image + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(pixels, decoded[184:216, 234:266])


def test_images_below_the_crop_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for i, size in enumerate([(40, 32), (31, 90), (32, 32), (90, 31)]):
        save(tmp_path / f"{i}.png", size)
    (tmp_path / "4.jpg").write_bytes(b"no image")
    with caplog.at_level(logging.WARNING):
        data = ImageFolder(tmp_path, 32, split="all", small="leave_out")
    assert data.files == ["0.png", "2.png", "4.jpg"]
    assert "2 of 5 images" in caplog.text
    assert data[2]["image"].shape == (3, 32, 32)
    assert data.skips.counts() == {"unreadable": 1}
    save(tmp_path / "4.jpg", (9, 9))
    with pytest.raises(DataError, match=r"all 5 images .* are smaller than 64 x 64"):
        ImageFolder(tmp_path, 64, split="all", small="leave_out")


def test_a_turned_photograph_is_measured_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a right angle
    Image.new("RGB", (64, 32)).save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGB", (64, 32)).save(tmp_path / "plain.jpg")
    data = ImageFolder(tmp_path, (64, 32), split="all", small="leave_out")
    assert data.files == ["turned.jpg"]
