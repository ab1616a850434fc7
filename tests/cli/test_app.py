from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from ldm.cli.app import end_with_status
from ldm.cli.options.common import check_out_file, check_out_folder
from ldm.errors import DataError, UserError
from ldm.evaluation.sources.base import CorruptImages
from ldm.evaluation.sources.open import open_source


def ended(main: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit status and what stands on stderr."""
    path = list(sys.path)
    with pytest.raises(SystemExit) as exit_:
        end_with_status(main)
    sys.path[:] = path
    return int(exit_.value.code or 0), capsys.readouterr().err


def test_the_status_tells_unreadable_images_from_other_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for k in range(3):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{k}.png")

    def read(skip: bool) -> None:
        source = open_source(str(tmp_path), skip_corrupt=skip)
        assert len(list(source.batches(1))) == 2  # type: ignore[union-attr]

    (tmp_path / "1.png").write_bytes(b"?")
    status, line = ended(lambda: read(skip=False), capsys)
    assert status == CorruptImages.exit_status == 3
    assert line.startswith("error: 1 of the 3 images")
    assert "1.png" in line
    assert line.count("\n") == 1
    assert ended(lambda: read(skip=True), capsys) == (0, "")

    def refuse() -> None:
        raise DataError("x")

    assert ended(refuse, capsys) == (2, "error: x\n")


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    check_out_file("--out", tmp_path / "new/report.json")
    check_out_file("--out", file)  # is replaced
    check_out_file("--out", None)
    check_out_folder("--out", tmp_path)
    check_out_folder("--out", tmp_path / "new/folder")
    for check, path, message in (
        (check_out_file, tmp_path, "is a folder; name a file"),
        (check_out_file, file / "report.json", f"{file} is a file"),
        (check_out_folder, file, f"{file} is a file"),
        (check_out_folder, file / "a/b", f"{file} is a file"),
    ):
        with pytest.raises(UserError, match=message):
            check("--out", path)


def test_an_error_of_a_loader_worker_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(Dataset[int]):
        def __getitem__(self, index: int) -> int:
            raise DataError(f"item {index} is broken")

        def __len__(self) -> int:
            return 1

    status, line = ended(lambda: list(DataLoader(Broken(), num_workers=1)), capsys)
    assert (status, line) == (2, "error: item 0 is broken\n")
