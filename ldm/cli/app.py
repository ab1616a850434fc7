"""Starting a program: arguments first, heavy libraries afterwards, errors in one line.

A program has two modules of the same name. That in ``ldm.cli.commands`` is light: its docstring is
the help text, ``parse(arguments)`` reads options and YAML files and refuses what cannot work. That
in ``ldm.programs`` does the work: ``run(options)``. It, and with it PyTorch, is imported when the
options are known to be good. ``scripts/NAME.py`` and the command ``ldm NAME`` both call ``start``.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import io
import json
import logging
import multiprocessing
import os
import re
import select
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import ldm
from ldm.errors import UserError, exhausted, suggest
from ldm.files import shown
from ldm.orphans import end_children_with_their_parent
from ldm.threads import considerate, set_threads

FAMILIES = {
    "training": {
        "train": "train one stage from a config, continue a run, fine-tune a model",
        "cache_latents": "encode a data set once, to train stage 2 from its latents",
        "convert": "a model in another format: diffusers, the original code, this library",
        "toy": "diffusion of points in the plane, trained and filmed in a minute",
    },
    "sampling": {
        "sample": "images without a condition, or of classes",
        "txt2img": "images for prompts",
        "img2img": "a picture made anew, more or less",
        "inpaint": "the hole of a picture",
        "superres": "a picture, four times as large",
        "layout2img": "images for boxes with classes",
        "semantic2img": "images for a map of classes",
        "retrieve2img": "images like the neighbours of a text or picture",
        "walk": "a film between prompts or seeds",
        "draw_process": "the diffusion process of a model as a picture",
    },
    "evaluation": {
        "evaluate": "FID, KID, precision and recall, ... by a protocol",
        "evaluate_task": "does a model do what its condition asks for?",
        "evaluate_autoencoder": "is a first stage good enough for stage 2?",
        "reconstruct": "pictures through a first stage",
        "compare_reports": "may the numbers of two reports be compared?",
        "reproduce": "recipes of the rows that the paper publishes",
    },
    "data": {
        "show_data": "what a config would train on, as a picture",
        "build_index": "embeddings of a folder and an index over them, for retrieval",
        "write_scenes": "synthetic scenes as files, in every format of the data recipes",
        "pack_pictures": "captioned pictures (emoji, a folder) as shards, some held out",
    },
}
"""Programs by what they are about, each with a line of help."""
TRACEBACK = "LDM_TRACEBACK"
"""Variable: not 0 shows where an error came from, whatever it is."""
_ELSEWHERE = "choose another place"
_FULL = "free some space, or " + _ELSEWHERE
_REMEDIES = {
    errno.EACCES: f"get the permission, or {_ELSEWHERE}",
    errno.EPERM: f"get the permission, or {_ELSEWHERE}",
    errno.EROFS: f"nothing can be written there, {_ELSEWHERE}",
    errno.ENOSPC: f"the disk is full: {_FULL}; TMPDIR says where temporary files go",
    errno.EDQUOT: f"the quota is used up: {_FULL}",
    errno.EFBIG: f"the file system takes no such large files: {_ELSEWHERE}",
    errno.ENAMETOOLONG: "names may have 255 bytes, paths some thousand: choose shorter ones",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n), or give fewer workers",
    errno.ENFILE: "too many files are open on this computer: end other programs",
    errno.ENOENT: "it is not there (any more): correct the path, or make it",
    errno.ENOTDIR: "a file has the name of a folder: correct the path",
    errno.EISDIR: "it is a folder: name a file",
    errno.EEXIST: "it is there already: delete it, or choose another name",
    errno.ELOOP: "links lead in a circle: correct them",
    errno.EIO: "the disk or the network fails: try again, then look at the device",
    errno.ESTALE: "the network file system has lost it: try again",
    errno.ETIMEDOUT: "the network does not answer: try again",
    errno.EBUSY: "another process uses it: wait for that",
    errno.ETXTBSY: "another process uses it: wait for that",
}
"""What to do, by what the system says."""


def start(name: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a program and end; bad input ends in one line on stderr and exit status 2.

    The status is 3 where images cannot be read that an evaluation needs (``CorruptImages``), and 4
    where some inputs could not be read and the others have their results
    (``UnreadableInputsError``).

    Args:
        name: of the program, as in ``FAMILIES``.
        arguments: those of the command line, if not ``sys.argv``.
    """
    end_with_status(lambda: call(name, sys.argv[1:] if arguments is None else arguments))


def call(name: str, arguments: Sequence[str]) -> None:
    """Run a program in this process.

    Raises:
        UserError: what was asked for cannot be done.
        SystemExit: of argparse.
    """
    options = parse(name, arguments)
    check(name, options)
    run(name, options)


def parse(name: str, arguments: Sequence[str]) -> argparse.Namespace:
    """The options of a program; refuses what can be seen to be wrong without PyTorch."""
    place = f"ldm.cli.commands.{_family(name)}.{name}"
    options: argparse.Namespace = importlib.import_module(place).parse(arguments)
    return options


def check(name: str, options: argparse.Namespace) -> None:
    """Refuse files that are not there; apart from ``parse``, which also serves rehearsals.

    They are those of ``check_files``, a function of its module or of its family's package.
    """
    family = f"ldm.cli.commands.{_family(name)}"
    for module in map(importlib.import_module, (family, f"{family}.{name}")):
        if hasattr(module, "check_files"):
            module.check_files(options)


def run(name: str, options: argparse.Namespace) -> None:
    """Let a program do what its options say."""
    set_threads()
    program = importlib.import_module(f"ldm.programs.{_family(name)}.{name}")
    if getattr(options, "most_pixels", None) is not None:
        importlib.import_module("ldm.data.image_io").allow_pixels(options.most_pixels)
    _quiet_libraries()  # once they are imported: Lightning sets its level then
    with considerate():
        program.run(options)


def main() -> NoReturn:
    """The command ``ldm``: the name of a program and its arguments."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(_help())
        sys.exit(0)
    if name == "--version":
        print(f"ldm {ldm.__version__}")
        sys.exit(0)
    end_with_status(lambda: call(name, arguments))


def one_line(error: BaseException) -> str:
    """The message of an error; of one that a loader worker passed on, without its traceback."""
    text = str(error)
    if text.startswith("Caught ") and "DataLoader worker" in text:
        text = re.sub(r"^ldm\.errors\.\w+: ", "", text.strip().splitlines()[-1])
    return " ".join(text.split())


def explained(error: BaseException) -> str | None:
    """In one line what went wrong outside of the program, and what to do; None: it is a bug.

    Disks, permissions, memory and files of others fail anywhere, also in libraries, which wrap what
    the system says.
    """
    if isinstance(error, UserError):
        return one_line(error)
    short = exhausted(error)
    if short is not None:
        return short
    text = one_line(error)
    number = _errno(error, text)
    if isinstance(error, OSError) or number is not None:
        return _of_system(error, number, text)
    if isinstance(error, (UnicodeError, json.JSONDecodeError)) or _too_deep(error):
        what = "JSON or YAML" if not isinstance(error, UnicodeError) else "text in UTF-8"
        reason = "nested too deeply" if isinstance(error, RecursionError) else text
        return f"a file that should be {what} is not: {reason} ({TRACEBACK}=1 shows where)"
    return None


def _errno(error: BaseException, text: str) -> int | None:
    """The number that the system gave, which other languages and processes pass on as text."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if isinstance(error, RuntimeError) and text.startswith("Symlink loop"):  # of pathlib
        return errno.ELOOP
    found = re.search(r"\[Errno (\d+)\]|\(os error (\d+)\)", text)
    return int(found[1] or found[2]) if found else None


def _of_system(error: BaseException, number: int | None, text: str) -> str:
    names = [getattr(error, key, None) for key in ("filename", "filename2")]
    files = [os.fsdecode(name) for name in names if isinstance(name, str | bytes)]
    place = " and ".join(map(shown, files))
    problem = text
    if number is not None and isinstance(error, OSError) and error.errno is not None:
        problem = os.strerror(number) if error.strerror is None else error.strerror
    remedy = _REMEDIES.get(number or 0, f"{TRACEBACK}=1 shows what was being done")
    line = " ".join(f"{f'{place}: ' * bool(place)}{problem[:400]}".split())
    return f"{line}: {remedy}"


def _too_deep(error: BaseException) -> bool:
    """Whether a parser met more levels than Python has, in what somebody wrote."""
    if not isinstance(error, RecursionError):
        return False
    files = (frame.filename for frame in traceback.extract_tb(error.__traceback__))
    parsers = ("json", "yaml", "omegaconf", "ast.py", "copy.py")
    return any(name in Path(file).parts for file in files for name in parsers)


def as_typed(text: str) -> str:
    """A text that names ``scripts/NAME.py``, for those who have typed ``ldm NAME``."""
    if Path(sys.argv[0]).name in {f"{name}.py" for names in FAMILIES.values() for name in names}:
        return text
    return re.sub(r"(?:python )?scripts/(\w+)\.py", r"ldm \1", text)


def say(text: str) -> None:
    """Tell the user what is being done."""
    print(text, flush=True)


def _family(name: str) -> str:
    for family, programs in FAMILIES.items():
        if name in programs:
            return family
    names = [program for programs in FAMILIES.values() for program in programs]
    raise UserError(f"ldm {name}: no such program{suggest(name, names)} (ldm --help lists them)")


def _help() -> str:
    lines = ["usage: ldm PROGRAM ...    (ldm PROGRAM --help says more)"]
    for family, programs in FAMILIES.items():
        lines += ["", f"{family}:", *(f"  {name:<22}{line}" for name, line in programs.items())]
    return "\n".join(lines)


def end_with_status(work: Callable[[], object]) -> NoReturn:
    """Do the work and end the process; see ``start``.

    An error that is a bug of the program has its traceback and the status 1; with the variable
    LDM_TRACEBACK=1 every error has one.
    """
    sys.path.append(os.getcwd())  # targets may live in the user's own modules
    end_children_with_their_parent()
    for stream in (sys.stdout, sys.stderr):  # names of files may be no text
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        work()
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt as interrupt:
        _end_workers()
        status = getattr(interrupt, "exit_status", 130)  # 0: another process reports
        if status:
            _complain(str(interrupt) or "interrupted")
        sys.exit(status)
    except Exception as error:
        if _stdout_is_lost() and isinstance(error, BrokenPipeError):
            sys.exit(128 + signal.SIGPIPE)
        line = explained(error)
        if line is None or os.environ.get(TRACEBACK, "0") not in ("", "0"):
            _complain(traceback.format_exc().rstrip())
        if line is None:
            sys.exit(1)
        _complain(f"error: {as_typed(line)}")
        sys.exit(getattr(error, "exit_status", 2))
    sys.exit(0)


def _end_workers() -> None:
    """End loader workers, which may be stuck in a read: each would be waited for otherwise."""
    with contextlib.suppress(ValueError):  # not in the main thread, which alone has handlers
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's raises an error if a worker dies
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def _complain(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody may be listening
        print(text, file=sys.stderr, flush=True)


def _stdout_is_lost() -> bool:
    """Whether stdout takes no more (``| head``, a full disk); what is left to say is dropped."""
    if sys.stdout is None:
        return False
    try:
        sys.stdout.flush()
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        if not any(event & select.POLLERR for _, event in poll.poll(0)):
            return False
    except io.UnsupportedOperation:  # a stream without a file
        return False
    except OSError:
        pass
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _quiet_libraries() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in ("pytorch_lightning", "lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in ("httpx", "urllib3", "matplotlib", "PIL", "fsspec", "transformers", "faiss"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in (
        ".*does not have many workers.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*The number of training batches.*",
        ".*lr_scheduler.step.*before.*optimizer.step.*",
        ".*isinstance.treespec, LeafSpec.*",
        ".*not using `distributed.sampler.*",
        ".*You have overridden `on_before_batch_transfer`.*",
        ".*your dataloader is not resumable.*",  # the data module knows its position
        ".*IterableDataset. has .__len__. defined.*",  # ours gives each process its share
        ".*module.s. in eval mode at the start of training.*",  # the frozen first stage
        ".*ModelCheckpoint with manual optimization.*",  # the state after the step is what we want
    ):
        warnings.filterwarnings("ignore", message=text)
