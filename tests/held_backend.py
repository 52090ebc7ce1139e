"""A third party's backend: the in-memory one, with loads and runs that a test in another process can hold up.

`install` makes a wheel of it, as a third party would, and installs it into a directory for PYTHONPATH. A run waits
for a shared lock on the file `.hold` in the model's directory, so a test that locks that file exclusively holds it up.
A load does so for `.hold_loads`, where that is. They are hidden, or they would be changes of the model.
A model whose document has `seconds` takes that long for a run, on top.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from fake_backend import FakeBackend, FakeModel
from vintner.backend import LoadSpec
from vintner.errors import BackendError
from vintner.types import Array

TESTS = Path(__file__).parent
HOLD = ".hold"
HOLD_LOADS = ".hold_loads"
JOURNAL = ".journal"
"""Where this file is when a model is loaded, each of its runs adds a line with the values of its first input."""


class HeldBackend(FakeBackend):
    """Every run of a model waits while its `.hold` file is locked; a `.poison` file makes it fail, with its text if it
    has any, else as by a bug."""

    def load(self, spec: LoadSpec) -> FakeModel:
        directory = spec.path.parent
        if (directory / HOLD_LOADS).exists():
            _wait_for(directory / HOLD_LOADS)
        model = super().load(spec)
        seconds: float = self._document(spec.path).get("seconds", 0.0)
        hold = (directory / HOLD).resolve()  # a link to elsewhere outlives the model's directory

        def gate() -> None:
            if (directory / ".poison").exists():
                reason = (directory / ".poison").read_text()
                raise BackendError(reason) if reason else RuntimeError("a bug in the backend")
            _wait_for(hold)
            if seconds:
                time.sleep(seconds)

        model.gate = gate
        if (directory / JOURNAL).exists():
            model.enter = partial(_note, directory / JOURNAL, model)  # type: ignore[method-assign]
        return model


def _wait_for(hold: Path) -> None:
    with hold.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)


def _note(journal: Path, model: FakeModel, inputs: Mapping[str, Array]) -> None:
    with journal.open("a") as file:
        print(*inputs[model.inputs[0].name].ravel().tolist(), file=file)
    FakeModel.enter(model, inputs)


def held(version_directory: Path) -> AbstractContextManager[None]:
    """Holds up the runs of a model until the end of the block."""
    return _locked(version_directory / HOLD)


def held_loads(version_directory: Path) -> AbstractContextManager[None]:
    """Holds up its loads likewise, of which all that begin in the block wait for its end."""
    return _locked(version_directory / HOLD_LOADS)


@contextmanager
def _locked(hold: Path) -> Iterator[None]:
    with hold.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def install(target: Path) -> Path:
    """Installs the backend as the distribution `vintner-held`; returns the directory for PYTHONPATH."""
    wheel = target / "vintner_held-1.0-py3-none-any.whl"
    info = "vintner_held-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        for module in ("held_backend.py", "fake_backend.py"):
            archive.write(TESTS / module, module)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: vintner-held\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/entry_points.txt", "[vintner.backends]\nheld = held_backend:HeldBackend\n")
        archive.writestr(f"{info}/RECORD", "")
    site = target / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(site)]
    subprocess.run([*pip, str(wheel)], check=True, timeout=120)
    return site
