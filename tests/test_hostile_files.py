"""Files that try to run code: none of it runs, whatever the trick, in every format of a pickle."""

from __future__ import annotations

import codecs
import functools
import io
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ldm.checkpoint import load_training_checkpoint, read_state
from ldm.errors import CheckpointError
from ldm.load.init_from import InitFrom
from ldm.safe_pickle import HostileFileError

ROOT = Path(__file__).parents[1]
WEIGHTS = {"weight": torch.ones(2)}


class Calls:
    """Calls a function when it is unpickled, and then gets a state."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments) + (() if state is None else (state,))

    def __reduce__(self) -> Any:
        return self.reduced

    def __call__(self) -> None:
        """Only so that a call may be what is called."""


def shell(mark: Path) -> Calls:
    return Calls(os.system, f"touch {mark}")


class Storage:
    """Looks like a storage of torch to ``torch.save``; its persistent id holds a call."""


def raw(code: bytes) -> Callable[[Path, Path], None]:
    """A file that is one pickle, as old versions of torch wrote them without any frame."""

    def write(path: Path, mark: Path) -> None:
        path.write_bytes(code.replace(b"MARK", str(mark).encode()))

    return write


def saved(make: Callable[[Path], Any], zipped: bool = True) -> Callable[[Path, Path], None]:
    def write(path: Path, mark: Path) -> None:
        torch.save(make(mark), path, _use_new_zipfile_serialization=zipped)

    return write


def in_persistent_id(path: Path, mark: Path) -> None:
    """The place of a tensor's storage is itself a call."""
    buffer = io.BytesIO()

    class Writer(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            if isinstance(value, Storage):
                return ("storage", shell(mark), "0", "cpu", 2)
            return None

    Writer(buffer, protocol=2).dump({"state_dict": {"weight": Storage()}})
    torch.save(WEIGHTS, path)
    _replace_in_zip(path, "data.pkl", buffer.getvalue())


def _replace_in_zip(path: Path, name: str, content: bytes) -> None:
    import zipfile

    with zipfile.ZipFile(path) as archive:
        files = {info: archive.read(info) for info in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for info, old in files.items():
            archive.writestr(info, content if info.endswith(name) else old)


def in_tar(path: Path, mark: Path) -> None:
    """The format of torch before 0.1.10."""
    content = pickle.dumps(shell(mark), protocol=2)
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def another_file(path: Path, mark: Path) -> None:
    other = path.with_name("other.ckpt")
    torch.save(shell(mark), other)
    load = functools.partial(torch.load, str(other), weights_only=False)
    torch.save({"state_dict": WEIGHTS, "more": Calls(load)}, path)


def object_array(mark: Path) -> Any:
    array = np.empty(1, dtype=object)
    array[0] = shell(mark)
    return {"state_dict": WEIGHTS, "best": array}


def nested_bytes(mark: Path) -> Any:
    from torch.storage import _load_from_bytes

    return {"state_dict": WEIGHTS, "storage": Calls(_load_from_bytes, pickle.dumps(shell(mark)))}


def scalar_of_objects(mark: Path) -> Any:
    scalar = np.float64(1).__reduce__()[0]
    return {"state_dict": WEIGHTS, "best": Calls(scalar, np.dtype("O"), pickle.dumps(shell(mark)))}


def hooks(mark: Path) -> Any:
    """Hooks that a parameter brings along."""
    from torch._utils import _rebuild_parameter

    calls = OrderedDict({0: Calls(functools.partial, os.system, f"touch {mark}")})
    return {"state_dict": {"weight": Calls(_rebuild_parameter, torch.ones(2), True, calls)}}


VARIANTS: dict[str, Callable[[Path, Path], None]] = {
    "os.system": saved(lambda mark: {"state_dict": WEIGHTS, "callbacks": shell(mark)}),
    "os.system, not zipped": saved(
        lambda mark: {"state_dict": WEIGHTS, "callbacks": shell(mark)}, zipped=False
    ),
    "subprocess": saved(lambda mark: [Calls(subprocess.check_call, ["touch", str(mark)])]),
    "eval in the weights": saved(
        lambda mark: {"state_dict": {"weight": Calls(eval, f"open({str(mark)!r}, 'w')")}}
    ),
    "exec as a key": saved(
        lambda mark: {Calls(exec, f"open({str(mark)!r}, 'w')"): 1, "state_dict": WEIGHTS}
    ),
    "open": saved(lambda mark: {"state_dict": WEIGHTS, "log": Calls(open, str(mark), "w")}),
    "getattr chain": saved(
        lambda mark: Calls(Calls(getattr, Calls(__import__, "os"), "system"), f"touch {mark}")
    ),
    "method of a path": saved(lambda mark: {"state_dict": WEIGHTS, "x": Calls(Path.touch, mark)}),
    "functools.partial": saved(
        lambda mark: {
            "state_dict": WEIGHTS,
            "x": Calls(functools.partial(os.system, f"touch {mark}")),
        }
    ),
    "state of an allowed class": saved(
        lambda mark: {"state_dict": Calls(OrderedDict, state={"__class__": shell(mark)})}
    ),
    "state of a module": saved(lambda mark: Calls(nn.Linear, 1, 1, state={"x": shell(mark)})),
    "persistent id": in_persistent_id,
    "tar": in_tar,
    "another file": another_file,
    "bytes within bytes": saved(nested_bytes),
    "array of objects": saved(object_array),
    "scalar of objects": saved(scalar_of_objects),
    "hooks of a parameter": saved(hooks),
    "codecs": saved(
        lambda mark: {"state_dict": WEIGHTS, "x": Calls(codecs.encode, shell(mark), "rot13")}
    ),
    "INST": raw(b"(S'touch MARK'\nios\nsystem\n."),
    "INST, posix": raw(b"(S'touch MARK'\niposix\nsystem\n."),
    "OBJ": raw(b"(cos\nsystem\nS'touch MARK'\no."),
    "dotted global": raw(
        b"\x80\x04\x8c\x0bcollections\x8c\x1cOrderedDict.__init__.__self__\x93"
        b"\x8c\nsystem MARK\x85R."
    ),
    "dotted name below an allowed one": raw(
        b"\x80\x04\x8c\x0ctorch._utils\x8c.torch.os.system" + b"\x93\x8c\x0atouch MARK\x85R."
    ),
    "extension registry": raw(b"\x80\x02\x82\x01X\x00\x00\x00\x00\x85R."),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_runs(variant: str, tmp_path: Path) -> None:
    path, mark = tmp_path / "a.ckpt", tmp_path / "executed"
    VARIANTS[variant](path, mark)
    assert not mark.exists(), "the test itself ran it"
    said = ""
    for read in (read_state, lambda file: InitFrom(str(file)).read()):
        try:
            assert set(read(path).state_dict) == {"weight"}
            said = str(path)
        except CheckpointError as error:
            said = str(error)
        assert not mark.exists()
        assert str(path) in said
        assert "\n" not in said
    with pytest.raises(CheckpointError):
        load_training_checkpoint(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("variant", "name"),
    [
        ("os.system", "posix.system"),
        ("os.system, not zipped", "posix.system"),
        ("subprocess", r"(subprocess|commands)\.check_call"),
        ("eval in the weights", r"(__builtin__|builtins)\.eval"),
        ("exec as a key", r"(__builtin__|builtins)\.exec"),
        ("open", r"(io|builtins|__builtin__)\.open"),
        ("getattr chain", r"(__builtin__|builtins)\.__import__"),
        ("functools.partial", "posix.system"),
        ("state of an allowed class", "posix.system"),
        ("state of a module", "posix.system"),
        ("persistent id", "posix.system"),
        ("another file", r"torch\.serialization\.load"),
        ("array of objects", "posix.system"),
        ("hooks of a parameter", "posix.system"),
        ("codecs", "posix.system"),
    ],
)
def test_refused_by_name(variant: str, name: str, tmp_path: Path) -> None:
    VARIANTS[variant](tmp_path / "a.ckpt", tmp_path / "executed")
    with pytest.raises(HostileFileError, match=rf"a\.ckpt tries to run code \({name}\) and is ref"):
        read_state(tmp_path / "a.ckpt")


def test_the_variants_are_hostile_indeed(tmp_path: Path) -> None:
    """Read without care, these files do what they are made for."""
    for variant in ("os.system", "eval in the weights", "hooks of a parameter", "another file"):
        mark = tmp_path / f"executed by {variant.split()[0]}".replace(" ", "-")
        VARIANTS[variant](tmp_path / "a.ckpt", mark)
        content = torch.load(tmp_path / "a.ckpt", weights_only=False)
        if variant == "hooks of a parameter":
            assert callable(content["state_dict"]["weight"]._backward_hooks[0])
        else:
            assert mark.exists(), variant


def test_arrays_of_numpy_cannot_reach_into_memory(tmp_path: Path) -> None:
    """An array of objects over given bytes: its entries would be addresses."""
    address = b"\x96" + (8).to_bytes(8, "little") + b"A" * 8
    code = (
        b"\x80\x05}X\x0a\0\0\0state_dictcnumpy\nndarray\n"
        b"(K\x01\x85X\x01\0\0\0O" + address + b"tRK\x00Nss."
    )
    torch.save(WEIGHTS, tmp_path / "good.pt")
    path = tmp_path / "bad.pt"
    with zipfile.ZipFile(tmp_path / "good.pt") as good, zipfile.ZipFile(path, "w") as bad:
        for name in good.namelist():
            bad.writestr(name, code if name.endswith("data.pkl") else good.read(name))
    program = f"from ldm.checkpoint import read_state; read_state({str(path)!r})"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1, done.returncode  # an exception, no crash
    assert "CheckpointError" in done.stderr
