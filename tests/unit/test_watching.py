"""A watched repository: what is handed on, and when. With the real clock, real files and real inotify."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from queue import Empty, Queue
from types import SimpleNamespace

import pytest
from fake_backend import FakeBackend, write_model
from vintner import notices
from vintner.backend import Backends
from vintner.errors import ConfigError
from vintner.model_source import Scan
from vintner.mounts import Mount
from vintner.notices import Notices
from vintner.tracking import Repository
from vintner.watching import Watcher

NEVER = 600.0
"""Seconds after which a test has long failed: what takes that long was not heard of."""


class World:
    """A watcher of one root; what it hands on waits in a queue."""

    def __init__(self, root: Path, *, settle: float = 0.75, poll: float = NEVER, **options: object) -> None:
        self.root = root
        self.handed: Queue[Scan] = Queue()
        self.repository = Repository([root], Backends(made={"fake": FakeBackend()}), settle_seconds=settle)
        self.scans = 0
        scan = self.repository.scan

        def counted(now: float, settle: bool = True) -> Scan:
            self.scans += 1
            return scan(now, settle)

        self.repository.scan = counted  # type: ignore[method-assign]
        self.watcher = Watcher(self.repository, self.handed.put, poll_seconds=poll, **options)  # type: ignore[arg-type]

    def wait_for(self, wanted: Callable[[Scan], bool], timeout: float = 20.0) -> Scan:
        deadline = time.monotonic() + timeout
        while True:
            found = self.handed.get(timeout=max(0.0, deadline - time.monotonic()))
            if wanted(found):
                return found

    def wait_for_versions(self, *versions: int) -> Scan:
        return self.wait_for(lambda found: "m" in found.models and tuple(found.models["m"].available) == versions)


@contextmanager
def watched(root: Path, **options: object) -> Iterator[World]:
    world = World(root, **options)  # type: ignore[arg-type]
    with ExitStack() as stack:
        stack.callback(world.watcher.stop)
        world.watcher.start()
        yield world


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """With a model that rests."""
    path = write_model(tmp_path / "models" / "m" / "1")
    for each in (path, path.parent, path.parents[1]):
        os.utime(each, (1, 1))
    return tmp_path / "models"


def prepared(place: Path) -> Path:
    """A version that was written a while ago, ready to be renamed."""
    write_model(place)
    os.utime(place, (1, 1))
    return place


def test_what_is_there_is_handed_on_before_start_returns(root: Path) -> None:
    with watched(root) as world:
        assert list(world.handed.get_nowait().models) == ["m"]
        with pytest.raises(Empty):
            world.handed.get_nowait()


@pytest.mark.parametrize("source", ["models/m/2.tmp", "elsewhere"])
def test_a_directory_that_is_renamed_into_place_is_handed_on_before_it_settles(root: Path, source: str) -> None:
    with watched(root, settle=NEVER) as world:
        prepared(root.parent / source).rename(root / "m" / "2")
        world.wait_for_versions(1, 2)


def test_removed_versions_and_models_are_handed_on_at_once(root: Path) -> None:
    prepared(root / "m" / "2")
    with watched(root) as world:
        world.wait_for_versions(1, 2)
        shutil.rmtree(root / "m" / "2")
        world.wait_for_versions(1)
        shutil.rmtree(root / "m")
        world.wait_for(lambda found: not found.models)


def write_slowly(directory: Path, chunk: bytes, chunks: int) -> tuple[float, float]:
    """Writes a version. Returns how long that took, and the longest pause in which nothing of it changed."""
    times = [time.monotonic()]
    directory.mkdir()
    with (directory / "weights.bin").open("wb") as file:
        for _ in range(chunks):
            file.write(chunk)
            file.flush()
            times.append(time.monotonic())
            time.sleep(0.03)  # the pace of the writer, which is what is tried
    write_model(directory)
    times.append(time.monotonic())
    return times[-1] - times[0], max(after - before for before, after in pairwise(times))


def test_a_large_version_that_is_written_slowly_is_never_handed_on_half_done(root: Path) -> None:
    settle, chunk, chunks = 0.5, b"x" * (1 << 20), 50
    for version in range(2, 12):
        with watched(root, settle=settle) as world:
            before = world.scans
            written, pause = write_slowly(root / "m" / str(version), chunk, chunks)
            scans = world.scans - before
            if pause > settle / 2:  # the machine held the writer up, who then seemed to have ended
                continue
            found = world.wait_for(lambda found, version=version: version in found.models["m"].available)  # type: ignore[misc]
            sizes = {name: size for name, size, *_ in found.models["m"].signatures[version][0]}  # type: ignore[index]
            assert sizes["weights.bin"] == chunks * len(chunk)
            assert "model.fake" in sizes
            assert scans <= 10 * written + 2
            assert world.handed.empty()
            return
    raise AssertionError("the machine is too slow to write at this pace")


def test_a_switch_of_the_data_link_is_heard_of(tmp_path: Path) -> None:
    root = tmp_path / "models"
    for number in (1, 2):
        write_model(root / f"..2026_{number}" / "m" / str(number))
    (root / "..data").symlink_to("..2026_1")
    (root / "m").symlink_to("..data/m")
    with watched(root, settle=0.1) as world:
        world.wait_for_versions(1)
        (root / "..data_tmp").symlink_to("..2026_2")
        (root / "..data_tmp").rename(root / "..data")
        world.wait_for_versions(2)


def test_what_is_quiet_again_is_not_handed_on_twice(root: Path) -> None:
    with watched(root, settle=0.05) as world:
        world.wait_for_versions(1)
        (root / "m" / "1" / ".hidden").write_text("")
        prepared(root / "m" / "2.tmp").rename(root / "m" / "2")
        world.wait_for_versions(1, 2)
        assert world.handed.empty()


def test_a_root_that_is_away_for_a_moment_changes_nothing_and_is_watched_again(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with watched(root, poll=0.1) as world:
        world.wait_for_versions(1)
        root.rename(root.parent / "away")
        scans = world.scans
        deadline = time.monotonic() + 20
        (root.parent / "away" / "m" / "3").mkdir()  # heard of under the directory's old name
        while world.scans < scans + 4 and time.monotonic() < deadline:
            threading.Event().wait(0.02)
        errors = [record.message for record in caplog.records if "models stay as they were" in record.message]
        assert len(errors) == 1
        assert "No such file or directory" in errors[0]
        assert world.handed.empty()
        prepared(root.parent / "away" / "m" / "2")
        (root.parent / "away").rename(root)
        world.wait_for(lambda found: 2 in found.models["m"].available)
    assert "the model repository can be read again" in caplog.text


def test_another_directory_in_the_place_of_the_root_is_watched(root: Path) -> None:
    """Soon, though nothing is heard of it."""
    with watched(root, safety_seconds=NEVER, poll=0.1) as world:
        world.wait_for_versions(1)
        prepared(root.parent / "other" / "m" / "5")
        root.rename(root.parent / "away")
        (root.parent / "other").rename(root)
        world.wait_for_versions(5)
        watch = world.watcher._notices._heard
        assert watch is not None
        assert watch[0][0] is not None
        assert watch[0][0][2] == root.stat().st_ino


def test_a_scan_that_fails_in_any_way_ends_nothing(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with watched(root, poll=0.1, safety_seconds=0.1) as world:
        world.wait_for_versions(1)
        scan, failed = world.repository.scan, threading.Semaphore(0)

        def fail(now: float, settle: bool = True) -> Scan:
            failed.release()
            raise RuntimeError("a bug")

        world.repository.scan = fail  # type: ignore[method-assign]
        for _ in range(3):
            assert failed.acquire(timeout=20)
        world.repository.scan = scan  # type: ignore[method-assign]
        prepared(root / "m" / "2")
        world.wait_for_versions(1, 2)
    assert len([record for record in caplog.records if record.message == "models stay as they were: a bug"]) == 1


def test_a_repository_that_cannot_be_read_at_the_start_is_an_error(tmp_path: Path) -> None:
    world = World(tmp_path / "absent")
    with pytest.raises(ConfigError, match="No such file or directory"):
        world.watcher.start()
    world.watcher.stop()
    assert world.handed.empty()


def test_a_refresh_takes_everything_as_it_is_and_hands_it_on_even_if_it_is_the_same(root: Path) -> None:
    with watched(root, settle=NEVER) as world:
        world.wait_for_versions(1)
        write_model(root / "m" / "2")
        assert list(world.watcher.refresh().models["m"].available) == [1, 2]
        first = world.wait_for_versions(1, 2)
        world.watcher.refresh()
        assert world.handed.get_nowait() == first


def test_nothing_is_handed_on_after_the_stop(root: Path) -> None:
    with watched(root) as world:
        world.wait_for_versions(1)
        thread = world.watcher._thread
        world.watcher.stop()
        assert not thread.is_alive()
        scans = world.scans
        prepared(root / "m" / "2.tmp").rename(root / "m" / "2")
        assert (world.handed.empty(), world.scans) == (True, scans)


# -- where changes are not heard of ----------------------------------------------------------------------------------


def deaf(root: Path, leading_out: tuple[Path, ...] = (), **options: object) -> str:
    heard = Notices(lambda: None, **options)  # type: ignore[arg-type]
    try:
        heard.listen([root], leading_out)
        return heard.blind
    finally:
        heard.stop()


def test_a_plain_directory_is_heard(root: Path) -> None:
    assert deaf(root) == ""


def test_roots_that_may_change_unheard(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to("models")
    assert deaf(tmp_path / "link") == f"{tmp_path / 'link'} is a link, which may be switched"
    assert deaf(root, (root,)) == f"links in {root} lead out of it"
    assert "/proc" in deaf(Path(f"/proc/{os.getpid()}/task"))
    assert "is not there" in deaf(tmp_path / "absent")
    device = root.stat().st_dev
    monkeypatch.setattr(notices, "read_mounts", lambda: [Mount(device, str(tmp_path), "nfs4", False)])
    assert deaf(root) == f"{tmp_path} is a file system of type nfs4"
    monkeypatch.setattr(notices, "read_mounts", lambda: [Mount(device, str(tmp_path), "ext4", True)])
    assert deaf(root) == f"{tmp_path} is mounted read-only"


class Refusing:
    """An observer on a system where no more can be watched, from the n-th directory on."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.stopped = False

    def start(self) -> None:
        pass

    def schedule(self, *arguments: object, **options: object) -> object:
        self.left -= 1
        if self.left < 0:
            raise OSError(28, "inotify watch limit reached")
        return object()

    def unschedule(self, watch: object) -> None:
        pass

    def stop(self) -> None:
        self.stopped = True

    def join(self, timeout: float) -> None:
        pass


@pytest.mark.parametrize(("left", "hears"), [(0, False), (1, False), (2, True)])
def test_a_limit_of_inotify_is_noticed(root: Path, left: int, hears: bool) -> None:
    observer = Refusing(left)
    blind = deaf(root, make_observer=lambda: observer)
    assert (blind == "") is hears
    assert hears or "inotify watch limit reached" in blind
    assert observer.stopped


def test_where_nothing_is_heard_it_looks_again_and_again(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    options = {"make_notices": lambda wake: Notices(wake, lambda: Refusing(0))}
    with watched(root, poll=0.2, **options) as world:
        world.wait_for_versions(1)
        prepared(root / "m" / "2.tmp").rename(root / "m" / "2")
        world.wait_for_versions(1, 2)
        shutil.rmtree(root / "m" / "1")
        world.wait_for_versions(2)
    told = [record.message for record in caplog.records if "found by looking" in record.message]
    assert told == [
        "changes of the models are found by looking every few seconds: inotify cannot be used: [Errno 28] inotify"
        " watch limit reached"
    ]


@pytest.mark.parametrize("took", [0.0, 0.001, 0.05, 2.0])
def test_looks_take_at_most_a_fifth_of_the_time_and_are_at_most_ten_a_second(root: Path, took: float) -> None:
    """Whatever is heard. The waits are counted, not slept through."""
    watcher = Watcher(Repository([root], Backends(made={"fake": FakeBackend()})), lambda scan: None)
    clock, waits = [0.0], list[float]()

    def look() -> None:
        clock[0] += took

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        if len(waits) == 5:
            watcher._stopped.set()
        return False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vintner.watching.time", SimpleNamespace(monotonic=lambda: clock[0]))
        patch.setattr(watcher, "_try", look)
        patch.setattr(watcher._stopped, "wait", wait)
        patch.setattr(watcher._woken, "wait", lambda seconds: True)
        watcher._run()
    assert len(waits) == 5
    assert all(wait >= 0.1 and took <= 0.2 * (took + wait) + 1e-9 for wait in waits)
