"""Names that are written in another way than files are called."""

from __future__ import annotations

import os
import random
import unicodedata
from pathlib import Path

import pytest

from ldm.data.names import Folder, Names, stem
from ldm.errors import DataError

NFC, NFD = (unicodedata.normalize(form, "Café à Zürich 가") for form in ("NFC", "NFD"))
BYTES = os.fsdecode(b"caf\xe9")


SPELLED = [
    (name, unicodedata.normalize(form, name))
    for name in ("0", NFC, NFD, BYTES, "photo.2021.3", "a b", "-", "naïve\u2028x")
    for form in ("NFC", "NFD")
]


@pytest.mark.parametrize(("name", "spelled"), SPELLED)
@pytest.mark.parametrize(
    ("here", "there"), [(".txt", ".TXT"), ("_mask.png", "_mask.PNG"), ("", "")]
)
def test_spelling_and_case_of_the_ending_do_not_matter(
    name: str, spelled: str, here: str, there: str
) -> None:
    names = Names([f"x/{spelled}{there}", "other.txt"], "here")
    assert names.find(f"x/{name}{here}", here) == f"x/{spelled}{there}"
    assert names.match([(f"x/{name}", here)]) == {f"x/{name}{here}": f"x/{spelled}{there}"}


def test_what_is_called_so_comes_first() -> None:
    names = Names([f"{NFC}.jpg", f"{NFD}.jpg", f"{NFD}.JPG"], "here")
    assert names.find(f"{NFC}.jpg") == f"{NFC}.jpg"
    assert names.find(f"{NFD}.JPG") == f"{NFD}.JPG"
    with pytest.raises(DataError, match=r"here: .*\\u0301.* are two spellings of '"):
        names.find(f"{NFC}.Jpg")


def test_the_case_of_a_name_matters() -> None:
    names = Names(["Cat.jpg", "caT.jpg"], "here")
    assert names.find("cat.jpg") is None
    assert names.find("Cat.JPG") == "Cat.jpg"


def test_a_file_is_given_to_one_name() -> None:
    names = Names([f"{NFD}.txt"], "here")
    wanted = [(NFC, ".txt"), (NFD, ".txt")]
    assert names.match(wanted) == {f"{NFD}.txt": f"{NFD}.txt"}  # the one that is written so
    names = Names(["0.TXT"], "here")
    with pytest.raises(DataError, match=r"'0.txt' and '0.Txt' are two spellings of '0.TXT'"):
        names.match([("0", ".txt"), ("0", ".Txt")])
    assert names.match([("0", ".txt"), ("0", ".txt")]) == {"0.txt": "0.TXT"}  # 0.jpg and 0.png


def test_stems() -> None:
    assert [stem(name) for name in ("a/0.JPG", "photo.2021.3.jpg", "x")] == [
        "a/0",
        "photo.2021.3",
        "x",
    ]


def test_paths_below_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / NFD / BYTES
    folder.mkdir(parents=True)
    for name in ("0.JPG", f"{NFC}.png", f"{NFD}.png"):
        (folder / name).touch()
    paths = Folder(tmp_path)
    assert paths.path(f"{NFC}/{BYTES}/0.jpg") == folder / "0.JPG"
    assert paths.path(f"./{NFC}//{BYTES}/0.jpg") == folder / "0.JPG"
    assert paths.path(f"{NFC}/{BYTES}/{NFD}.png") == folder / f"{NFD}.png"
    for absent in ("nowhere/0.jpg", f"{NFC}/{BYTES}/1.jpg", "\ud800.jpg", "a\0b", "/0.jpg"):
        assert not os.path.exists(paths.path(absent))
    with pytest.raises(DataError, match="two spellings"):
        paths.path(f"{NFC}/{BYTES}/{NFC}.PNG")


def test_any_name_is_found_under_its_other_spellings() -> None:
    letters, drawn = "aAéÅ가ü한.- \u0301", random.Random(0)
    for _ in range(300):
        name = "".join(drawn.choices(letters, k=6))
        form = drawn.choice(("NFC", "NFD"))
        known = unicodedata.normalize(form, name) + drawn.choice((".jpg", ".JPG"))
        assert Names([known], "here").find(f"{name}.jpg") == known
