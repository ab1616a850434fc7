"""samples.json: what it may name, what it may hold, and where its run lies."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ldm.errors import UserError
from ldm.evaluation.sources.folder import FolderSource
from ldm.evaluation.sources.open import open_source
from ldm.evaluation.sources.record import RECORD, find_run, read_record
from ldm.files import path_from


def samples(folder: Path, names: list[str], **entries: Any) -> Path:
    """A folder of images with a record of them; entries may replace or add."""
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(file, "PNG")
    tree = {"settings": {"run": "runs/x"}, "made_by": [], "samples": [{"file": n} for n in names]}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).write_text(json.dumps({**tree, **entries}))
    return folder


def refused(folder: Path, *parts: str) -> None:
    with pytest.raises(UserError) as raised:
        open_source(str(folder))
    text = str(raised.value)
    assert "\n" not in text
    assert len(text) < 500
    assert all(part in text for part in (*parts, RECORD))


OUTSIDE = [
    "../x.png",
    "a/../../x.png",
    "..",
    "images/..",
    "/etc/passwd",
    "//x",
    "a/./../..",
    "../samples/x.png",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_leave_the_folder(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    folder = samples(
        tmp_path / "samples", ["a/b.png"], samples=[{"file": "a/b.png"}, {"file": name}]
    )
    refused(folder, "sample 1", "does not lie in the folder")


@pytest.mark.parametrize("name", [None, 5, ["x.png"], {"a": 1}, True, "", "a\0b.png", "\ud800.png"])
def test_names_that_are_none(tmp_path: Path, name: Any) -> None:
    refused(samples(tmp_path, [], samples=[{"file": name}]), "sample 0")


@pytest.mark.parametrize("link", ["file", "folder", "folder in a folder"])
def test_links_that_leave_the_folder(tmp_path: Path, link: str) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    (tmp_path / "other").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "other" / "x.png")
    folder = samples(tmp_path / "samples", ["a.png", "in/b.png"])
    names = {"file": "in/l.png", "folder": "l/x.png", "folder in a folder": "in/l/x.png"}
    (folder / names[link]).parent.parent.mkdir(exist_ok=True)
    if link == "file":
        (folder / "in/l.png").symlink_to(tmp_path / "secret.png")
    else:
        (folder / names[link]).parent.symlink_to(tmp_path / "other")
    samples(folder, ["a.png"], samples=[{"file": "a.png"}, {"file": names[link]}])
    with pytest.raises(UserError, match="leads out of the folder by a link"):
        open_source(str(folder))


def test_links_within_the_folder_and_to_it(tmp_path: Path) -> None:
    folder = samples(tmp_path / "samples", ["a.png"])
    (folder / "b.png").symlink_to("a.png")
    samples(folder, [], samples=[{"file": "a.png"}, {"file": "b.png"}])
    (tmp_path / "link").symlink_to(folder)
    assert len(FolderSource(str(tmp_path / "link"))) == 2


@pytest.mark.parametrize(
    "content",
    ["null", "[]", "5", '"x"', "true", "", "{", "[" * 100_000, '{"samples":' * 50_000, "{}", "\x00"]
    + [json.dumps({"samples": value}) for value in (None, {}, 5, "x", [None], [[]], ["a.png"], [5])]
    + [
        json.dumps({"samples": [{"file": "a.png"}], key: value})
        for key in ("settings", "made_by", "run_from_here")
        for value in (None, 5, True)
    ],
)
def test_records_of_another_kind(tmp_path: Path, content: str) -> None:
    samples(tmp_path, ["a.png"])
    (tmp_path / RECORD).write_text(content)
    refused(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("label", v) for v in ("3", -1, True, 1.0, [1], 10**30)]
    + [("prompt", v) for v in (5, ["a"], True)],
)
def test_labels_and_prompts_of_another_kind(tmp_path: Path, key: str, value: Any) -> None:
    good: dict[str, Any] = {"file": "a.png", key: 3 if key == "label" else "a"}
    samples(tmp_path, ["a.png", "b.png"], samples=[good, {"file": "b.png", key: value}])
    refused(tmp_path, "sample 1", key)
    samples(tmp_path, [], samples=[good, {"file": "b.png", key: None}])
    assert len(open_source(str(tmp_path)).info.about) > 0  # type: ignore[union-attr]


def test_one_image_counts_once(tmp_path: Path) -> None:
    refused(samples(tmp_path, ["a.png"], samples=[{"file": "a.png"}] * 2), "is there twice")


def test_a_pipe_is_no_record(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / RECORD)
    refused(tmp_path, "named pipe")


# -- names that are no UTF-8 ----------------------------------------------------------------------

NAMES = [
    "caf\udce9.png",
    "\udcff\udcfe.png",
    "a\nb.png",
    "d\udce9/x.png",
    "$x^2$.png",
    "{a,b}.png",
    "a[1].png",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("recorded", [True, False])
def test_odd_names_are_names(tmp_path: Path, name: str, recorded: bool) -> None:
    folder = samples(tmp_path / "s\udce9", [name, "z.png"])
    if not recorded:
        (folder / RECORD).unlink()
    source = FolderSource(str(folder))
    assert sum(len(batch.images) for batch in source.batches(4)) == 2
    again = open_source(str(folder), cache=tmp_path / "cache\udce9")
    assert again.info.sha256 == source.info.sha256  # type: ignore[union-attr]
    remembered = open_source(str(folder), cache=tmp_path / "cache\udce9")
    assert remembered.info == again.info
    json.dumps(source.info.about).encode()
    (folder / name).write_bytes(b"?")
    damaged = FolderSource(str(folder), skip_corrupt=True)
    list(damaged.batches(4))
    (text,) = damaged.corrupt
    text.encode()
    assert "\n" not in text


def test_names_in_latin_1_and_in_utf_8_are_two(tmp_path: Path) -> None:
    digests = {
        FolderSource(str(samples(tmp_path / str(n), [name]))).info.sha256
        for n, name in enumerate(("caf\udce9.png", "café.png", "caf\\xe9.png", "caf?.png"))
    }
    assert len(digests) == 4


# -- where the run lies ---------------------------------------------------------------------------


def run(folder: Path) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text("a: 1")
    return folder


def found(folder: Path) -> Path | None:
    return find_run(folder, read_record(folder))


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("moved", ["", "renamed", "deep/er/x"])
@pytest.mark.parametrize("typed", ["runs/x", "runs/x/", "./runs/x", "absolute"])
def test_the_run_above_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bool, moved: str, typed: str
) -> None:
    place = run(tmp_path / "project/runs/x")
    monkeypatch.chdir(tmp_path / "project")
    typed = str(place) if typed == "absolute" else typed
    here = {} if old else {"run_from_here": path_from(Path("runs/x/generated"), typed)}
    folder = samples(place / "generated", ["a.png"], settings={"run": typed}, **here)
    if moved:
        (tmp_path / moved).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(place, tmp_path / moved)
        place, folder = tmp_path / moved, tmp_path / moved / "generated"
    run(tmp_path / "elsewhere/runs/y")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert found(folder) == place
    monkeypatch.chdir(folder)
    assert found(Path()) == place


def test_a_folder_beside_the_run_moves_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = run(tmp_path / "a/runs/x")
    monkeypatch.chdir(tmp_path / "a")
    record = {"run_from_here": path_from(Path("out/generated"), "runs/x")}
    assert record == {"run_from_here": "../../runs/x"}
    samples(Path("out/generated"), ["a.png"], **record)
    assert found(Path("out/generated")) == place
    monkeypatch.chdir(tmp_path)
    shutil.move("a", "b")
    assert found(Path("b/out/generated")) == tmp_path / "b/runs/x"


def test_the_typed_run_counts_where_the_one_above_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "runs/x")
    other = run(tmp_path / "runs/y")
    monkeypatch.chdir(tmp_path)
    folder = samples(other / "generated", ["a.png"])  # of runs/x, as the last release recorded it
    assert found(folder) == Path("runs/x")
    shutil.rmtree("runs/x")
    assert found(folder) == other
    (other / "config.yaml").unlink()
    assert found(folder) is None


@pytest.mark.parametrize("value", [None, 5, "", "\0", "x" * 5000, "\udce9"])
def test_runs_that_are_none(tmp_path: Path, value: Any) -> None:
    folder = samples(tmp_path / "deep/generated", ["a.png"], settings={"run": value})
    assert found(folder) is None
    if isinstance(value, str):
        assert found(samples(folder, ["a.png"], run_from_here=value, settings={})) is None
