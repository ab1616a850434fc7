"""What a listing leaves out is counted; links, pipes and folders without permission end nothing."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from ldm.data.datasets.lists import FileList, read_list
from ldm.data.folder import ImageFolder
from ldm.data.framing import make_framing
from ldm.data.inpainting.masks import MaskFiles
from ldm.data.items import left_out
from ldm.data.listing import (
    LOOP,
    NO_FILE,
    NO_PERMISSION,
    NO_TARGET,
    TOO_OFTEN,
    choose_split,
    find_classes,
    image_endings,
    list_folder,
)
from ldm.data.paired import Mask, PairedFolder
from ldm.errors import DataError, UserError
from ldm.evaluation.sources.folder import FolderSource

NFC, NFD = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
BYTES = os.fsdecode(b"caf\xe9")


def save(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path, format="PNG")
    return path


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]


@pytest.fixture(autouse=True)
def _warnings(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.WARNING):
        yield


@pytest.fixture
def without_permission(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of folders that cannot be read; the tests may run as root, who reads all."""
    names: set[str] = set()
    scandir = os.scandir

    def refuse(path: str | Path) -> Iterator[os.DirEntry[str]]:
        if os.path.basename(path) in names:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)  # type: ignore[return-value]

    monkeypatch.setattr(os, "scandir", refuse)
    return names


def test_other_formats_are_counted_and_can_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kinds = ["bmp", "tif", "tiff", "gif", "jfif", "ppm", "jp2"]
    for i, ending in enumerate(["jpg", "png", "webp", *kinds, "BMP", "heic"]):
        save(tmp_path / f"{i}.{ending}")
    (tmp_path / ".hidden.bmp").touch()
    (tmp_path / "notes.md").touch()
    data = ImageFolder(tmp_path, 8, split="all")
    wanted = {"bmp": 2, "heic": 1} | dict.fromkeys(kinds[1:], 1)
    assert data.left_out == wanted
    (line,) = said(caplog)
    assert "bmp: 2 ('10.BMP')" in line
    assert (
        "set extensions=[bmp, gif, jfif, jp2, ppm, tif, tiff] of the data set to read more" in line
    )
    caplog.clear()
    assert len(ImageFolder(tmp_path, 8, split="all", extensions="all")) == 11
    assert said(caplog) == [f"image folder '{tmp_path}': left out are heic: 1 ('11.heic')"]
    for extensions in ("bmp", [".BMP"], ["bmp", ".bmp"]):
        data = ImageFolder(tmp_path, 8, split="all", extensions=extensions)
        assert len(data) == 5
        assert data[4]["image"].shape == (3, 8, 8)


@pytest.mark.parametrize("extensions", ["eps", ["bmp", "heic"], [3], [""], "h5", "*"])
def test_formats_that_are_not_read_are_refused(extensions: object) -> None:
    with pytest.raises(DataError, match=r"extensions: .*give a list of .*\.bmp"):
        image_endings(extensions)  # type: ignore[arg-type]


def test_show_data_counts_them(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / "b.gif")
    assert left_out(ImageFolder(tmp_path, 8, split="all")) == {"gif": 1}


def test_programs_without_the_option_do_not_name_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path / "a.png"), save(tmp_path / "b.gif")
    list_folder(tmp_path)
    assert said(caplog)[0].endswith(
        "gif: 1 ('b.gif'); only jpg, jpeg, png, webp are read: convert the others"
    )


def test_a_folder_of_other_things_says_what_is_there(tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip", "c.bmp", "d"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"no \.jpg.*it holds 2 .zip, .*1 without ending.*bmp: 1"):
        list_folder(tmp_path)


@pytest.mark.parametrize("name", ["pipe.jpg", "pipe.txt", "metadata.jsonl", "captions.CSV"])
@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "nothing", "itself"])
def test_what_is_no_file_is_not_opened(
    tmp_path: Path, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)  # the path of a socket may have 108 bytes
    if kind == "pipe":
        os.mkfifo(name)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(name)
    elif kind == "device":
        os.symlink(os.devnull, name)
    else:
        os.symlink("nowhere" if kind == "nothing" else name, name)
    data = ImageFolder(tmp_path, 8, split="all")
    assert data.files == ["a.png"]
    assert set(data[0]) == {"image"}
    reason = {"nothing": NO_TARGET, "itself": "Too many levels of symbolic links"}.get(
        kind, NO_FILE
    )
    assert data.left_out == {reason: 1}


def test_two_links_to_one_folder_are_two_classes(tmp_path: Path) -> None:
    save(tmp_path / "shared" / "a.png")
    for name in ("cat", "dog"):
        (tmp_path / "root").mkdir(exist_ok=True)
        (tmp_path / "root" / name).symlink_to(tmp_path / "shared")
    (tmp_path / "root" / "eel").mkdir()
    save(tmp_path / "root" / "eel" / "b.png")
    data = ImageFolder(tmp_path / "root", 8, split="all")
    assert data.classes == ("cat", "dog", "eel")
    assert data.files == ["cat/a.png", "dog/a.png", "eel/b.png"]
    assert data.left_out == {}


@pytest.mark.parametrize("target", [".", "..", "x", "../x/y"])
def test_loops_of_links_end(tmp_path: Path, target: str) -> None:
    save(tmp_path / "root" / "x" / "y" / "a.png")
    where = tmp_path / "root" / ("x/y" if target.startswith(".") else "")
    (where / "loop").symlink_to(where / target)
    listing = list_folder(tmp_path / "root")
    assert "x/y/a.png" in listing.images
    assert len(listing.images) <= 2
    assert set(listing.left_out) <= {LOOP}


def test_a_net_of_links_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """12 folders that are linked with each other: 12! paths without a bound."""
    for i in range(12):
        save(tmp_path / str(i) / "a.png")
    for i in range(12):
        for k in set(range(12)) - {i}:
            (tmp_path / str(i) / f"to{k}").symlink_to(tmp_path / str(k))
    monkeypatch.setattr("ldm.data.listing._MOST_VISITS", 20)
    listing = list_folder(tmp_path)
    assert {f"{i}/a.png" for i in range(12)} <= set(listing.images)
    assert len(listing.images) == 12 * 20
    assert {TOO_OFTEN, LOOP} <= set(listing.left_out)


def test_folders_without_permission_are_counted(
    tmp_path: Path, without_permission: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("cat", "dog", "eel"):
        save(tmp_path / name / "a.png")
    without_permission.add("dog")
    data = ImageFolder(tmp_path, 8, split="all")
    assert data.classes == ("cat", "eel")
    assert data.left_out == {NO_PERMISSION: 1}
    assert "left out are no permission: 1 ('dog')" in said(caplog)[0]
    without_permission.update(("cat", "eel"))
    with pytest.raises(DataError, match=r"holds no .*no permission: 3 \('cat'\)"):
        ImageFolder(tmp_path, 8)
    without_permission.add(tmp_path.name)
    with pytest.raises(DataError, match=r"image folder .* cannot be read \(Permission denied\)"):
        ImageFolder(tmp_path, 8)


@pytest.mark.parametrize("root", ["nowhere", "file", "a\0b", "x" * 300, "\ud800"])
def test_roots_that_are_none(tmp_path: Path, root: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"image folder .*(does not exist|cannot be read)"):
        ImageFolder(tmp_path / root, 8)


def test_names_that_are_not_utf8(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in (f"{BYTES}/{BYTES}.png", "b/b.png", "b/c.png"):
        save(tmp_path / name)
    (tmp_path / BYTES / f"{BYTES}.txt").write_text("a cup")
    (tmp_path / "b" / "broken.png").touch()
    options = {"size": 8, "validation_fraction": 0.4}
    parts = [ImageFolder(tmp_path, split=name, **options) for name in ("train", "validation")]
    assert sum(len(part) for part in parts) == 4
    data = ImageFolder(tmp_path, 8, split="all", classes="folder")
    assert data.classes == ("b", BYTES)
    item = data[data.files.index(f"{BYTES}/{BYTES}.png")]
    assert (item["caption"], item["class_label"]) == ("a cup", 1)
    caplog.clear()
    (tmp_path / BYTES / f"{BYTES}.txt").write_bytes(b"caf\xe9")
    data[3]
    assert r"caf\xe9/caf\xe9.txt" in caplog.text
    assert not any("\udce9" in record.getMessage() for record in caplog.records)


def test_splits_of_ordinary_names_are_what_they_were() -> None:
    names = [f"{i:03}-{NFC}-{NFD}.jpg" for i in range(200)]
    numbers = [
        int.from_bytes(hashlib.sha256(f"7:{name}".encode()).digest()[:7], "big") / 2**56
        for name in names
    ]
    wanted = [i for i, number in enumerate(numbers) if number < 0.2]
    assert choose_split(names, "validation", 0.2, 7) == wanted


def test_ids_of_classes_do_not_depend_on_the_system() -> None:
    orders = [
        [unicodedata.normalize("NFC", n) for n in find_classes(Path(), files, "folder")]
        for form in ("NFC", "NFD")
        for files in [[unicodedata.normalize(form, f"{n}/0.png") for n in ("éa", "eb", "f", "z")]]
    ]
    assert orders[0] == orders[1]
    with pytest.raises(DataError, match="two spellings"):
        find_classes(Path(), [f"{NFC}/0.png", f"{NFD}/0.png"], "auto")
    assert find_classes(Path(), [f"{NFC}/0.png", f"{NFD}/0.png"], "none") == ()


def test_classes_by_name_are_found_in_any_spelling(tmp_path: Path) -> None:
    for name in ("z", NFD, BYTES):
        save(tmp_path / name / "0.png")
    source = FolderSource(str(tmp_path), classes=["y", NFC, "z", BYTES])
    labels = [label for batch in source.batches(8) for label in (batch.labels or ())]
    assert labels == [3, 1, 2]  # in the order of the paths
    save(tmp_path / "x" / "0.png")
    with pytest.raises(UserError, match="class folder 'x', which is not one of the 4 classes"):
        FolderSource(str(tmp_path), classes=["y", NFC, "z", BYTES])


NAMES = {"nfc": NFC, "nfd": NFD, "bytes": BYTES, "plain": "a"}


LISTED = [
    (name, encoding)
    for name in NAMES
    for encoding in ("utf-8", "utf-8-sig", "utf-16")
    if (name, encoding) != ("bytes", "utf-16")  # bytes that are no text
]


@pytest.mark.parametrize("there", NAMES)
@pytest.mark.parametrize(("listed", "encoding"), LISTED)
@pytest.mark.parametrize("ending", [".png", ".PNG"])
@pytest.mark.parametrize("line", ["\n", "\r\n", "\r"])
def test_lists_of_files(
    tmp_path: Path, there: str, listed: str, ending: str, encoding: str, line: str
) -> None:
    save(tmp_path / "x" / f"{NAMES[there]}.png")
    text = f"{line}/x/{NAMES[listed]}{ending}\t3{line}"
    (tmp_path / "list.txt").write_bytes(text.encode(encoding, "surrogateescape"))
    if NAMES[listed] != NAMES[there] and {listed, there} != {"nfc", "nfd"}:
        with pytest.raises(DataError, match="the first of 1 files"):
            FileList(tmp_path, tmp_path / "list.txt", labels=True)
        return
    source = FileList(tmp_path, tmp_path / "list.txt", labels=True, num_classes=4)
    assert source.read(0, None)[1] == (8, 8)
    assert source.entries(0, lambda: 0.0) == {"class_label": 3}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf \r\n", "is empty"),
        (b"a\0b", r"cannot read .*zero byte.*UTF-8"),
        ("a".encode("utf-16-le"), r"cannot read .*zero byte.*UTF-8"),
        (b"\xff\xfea", r"cannot read .*truncated"),
    ],
)
def test_bad_lists_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_list(tmp_path / "list.txt")


def test_a_pipe_is_no_list(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "list.txt")
    for name, kind in (("list.txt", "a named pipe"), ("", "a folder")):
        with pytest.raises(DataError, match=f"cannot read .*{kind}"):
            read_list(tmp_path / name)


@pytest.mark.parametrize("label", ["²", "-1", "1.5", "", "9" * 5000, "٣"])
def test_labels_of_lists(tmp_path: Path, label: str) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "list.txt").write_text(f"a.png {label}\n")
    with pytest.raises(DataError, match="must be a path and a class id"):
        FileList(tmp_path, tmp_path / "list.txt", labels=True)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("0.JPG", "0_mask.PNG"),
        ("0.jpeg", "0_MASK.png"),
        ("0.png", "0_mask.Jpg"),
        (f"{NFC}.png", f"{NFD}_mask.png"),
        (f"{BYTES}.png", f"{BYTES}_mask.PNG"),
    ],
)
def test_masks_beside_images(tmp_path: Path, image: str, mask: str) -> None:
    for name in (image, mask, "surgical_mask.jpg"):
        save(tmp_path / name)
    ending = "_mask" + Path(mask).suffix.lower()
    data = PairedFolder(tmp_path, {"mask": Mask(tmp_path / "." / "", ending)}, make_framing(8))
    assert data.files == [image]
    assert data[0]["mask"].shape == (1, 8, 8)


def test_a_picture_of_a_mask_is_an_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("surgical_mask.png", "surgical_mask_mask.png", "b.png", "b_mask.png"):
        save(tmp_path / name)
    data = PairedFolder(tmp_path, {"mask": Mask(tmp_path, "_mask.png")}, make_framing(8))
    assert data.files == ["b.png", "surgical_mask.png"]


def test_formats_of_paired_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for i in range(2):
        save(tmp_path / "images" / f"{i}.bmp"), save(tmp_path / "masks" / f"{i}.tif")
    save(tmp_path / "images" / "2.png")
    partners = {"mask": Mask(tmp_path / "masks", ".tif")}
    root = tmp_path / "images"
    data = PairedFolder(root, partners, make_framing(8), extensions=["bmp"])
    assert data.files == ["0.bmp", "1.bmp"]
    assert "1 of 3 images" in caplog.text
    with pytest.raises(DataError, match="have no mask"):
        PairedFolder(root, partners, make_framing(8))
    assert "bmp: 2 ('0.bmp'); set extensions=[bmp]" in caplog.text


def test_masks_of_other_formats(tmp_path: Path) -> None:
    save(tmp_path / "0.png"), save(tmp_path / "1.gif")
    assert [len(MaskFiles(tmp_path, extensions=e)) for e in (None, "gif")] == [1, 2]
