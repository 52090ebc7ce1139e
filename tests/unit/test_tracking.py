"""A repository that changes, look by look. The clock is stepped by hand; times of files tell nothing unless a test
says so."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import time
from collections.abc import Callable
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from fake_backend import FakeBackend, fake_model, write_model
from hypothesis import given, settings
from hypothesis import strategies as st
from vintner import tracking
from vintner.backend import Backends
from vintner.errors import ConfigError
from vintner.model_source import Scan
from vintner.mounts import Mount
from vintner.repository import scan
from vintner.settling import UNMARKED
from vintner.tracking import Repository

SETTLE = 1.0


class World:
    """A repository of which every look is a tenth of a second after the one before."""

    def __init__(self, root: Path, wall_clock: Callable[[], float] = lambda: 0.0, **options: object) -> None:
        self.root = root
        self.backends = Backends(made={"fake": FakeBackend()})
        self.now = 0.0
        self.repository = Repository(
            [root],
            self.backends,
            settle_seconds=SETTLE,
            wall_clock=wall_clock,
            **options,  # type: ignore[arg-type]
        )

    def look(self, later: float = 0.1, settle: bool = True) -> Scan:
        self.now += later
        return self.repository.scan(self.now, settle)

    def rest(self) -> Scan:
        """Two looks, between which everything comes to rest."""
        self.look()
        return self.look(SETTLE)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def numbers(found: Scan) -> dict[str, list[int]]:
    return {name: list(source.available) for name, source in found.models.items()}


def rename_into_place(source: Path, target: Path) -> None:
    """As `mv` of a directory that was filled a while ago."""
    os.utime(source, (1, 1))
    source.rename(target)


def test_a_look_without_settling_finds_what_a_scan_finds(world: World) -> None:
    write_model(world.root / "m" / "1")
    write_model(world.root / "m" / "2")
    write_model(world.root / "flat")
    (world.root / "broken").mkdir()
    assert world.look(settle=False) == scan([world.root], world.backends)


def test_a_new_model_is_there_once_it_has_come_to_rest(world: World) -> None:
    path = write_model(world.root / "m" / "1")
    found = world.look()
    assert (found.models, found.faults, found.unsettled) == ({}, {}, {"m": "its files are still being written"})
    assert world.repository.due == pytest.approx(world.now + SETTLE)
    path.write_text(path.read_text() + " ")
    assert world.look(0.9).unsettled
    assert world.look(0.9).unsettled
    assert numbers(world.look(0.1)) == {"m": [1]}
    assert world.repository.due == inf


def test_what_rests_is_the_same_object_look_after_look(world: World) -> None:
    write_model(world.root / "m" / "1")
    write_model(world.root / "n" / "1")
    first = world.rest()
    write_model(world.root / "n" / "2")
    second = world.rest()
    assert second.models["m"] is first.models["m"]
    assert second.models["n"] is not first.models["n"]
    assert second.models["n"].signatures[1] == first.models["n"].signatures[1]


def rewrite(path: Path) -> None:
    path.write_text(path.read_text() + " ")


def replace_with_an_older_file(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.utime(other, (1, 1))
    other.rename(path)


def create_anew(path: Path) -> None:
    content, status = path.read_bytes(), path.stat()
    keep = path.with_name(".keep")  # so that the file system does not give the same inode again
    path.rename(keep)
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def add_a_file(path: Path) -> None:
    path.with_name("labels.txt").write_text("")


def add_deep_down(path: Path) -> None:
    (path.parent / "assets" / "deep").mkdir(parents=True)
    (path.parent / "assets" / "deep" / "vocabulary").write_text("")


def add_to_the_warm_up(path: Path) -> None:
    (path.parents[1] / "warmup").mkdir()
    (path.parents[1] / "warmup" / "image").write_bytes(b"1")


CHANGES = [rewrite, replace_with_an_older_file, create_anew, add_a_file, add_deep_down, add_to_the_warm_up]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_a_version_is_seen_once_it_rests(world: World, change: Callable[[Path], None]) -> None:
    path = write_model(world.root / "m" / "1")
    before = world.rest()
    change(path)
    assert world.look().models["m"] is before.models["m"]
    after = world.look(SETTLE)
    assert after.models["m"].signatures[1] != before.models["m"].signatures[1]
    assert after.models["m"].config == before.models["m"].config


@pytest.mark.parametrize("change", [*CHANGES[:5], lambda path: None])
def test_a_change_of_the_configuration_alone_is_none_of_the_versions(world: World, change) -> None:
    flat = write_model(world.root / "flat")
    write_model(world.root / "m" / "1")
    before = world.rest()
    for name in ("flat", "m"):
        (world.root / name / "config.yaml").write_text("instances: 2")
        (world.root / name / ".hidden").write_text("")
        (world.root / name / "notes~").write_text("")
    after = world.rest()
    for name in ("flat", "m"):
        assert after.models[name].signatures == before.models[name].signatures
        assert (before.models[name].config.instances, after.models[name].config.instances) == (None, 2)
    change(flat)
    assert (world.rest().models["flat"].signatures == after.models["flat"].signatures) == (change not in CHANGES)


def test_a_new_version_that_is_still_written_is_not_there_yet(world: World) -> None:
    write_model(world.root / "m" / "1")
    before = world.rest()
    path = write_model(world.root / "m" / "2")
    for _ in range(30):
        rewrite(path)
        assert world.look(0.5) == before
    assert numbers(world.look(SETTLE)) == {"m": [1, 2]}


def test_a_half_written_configuration_is_not_read_while_a_version_comes(world: World) -> None:
    write_model(world.root / "m" / "1")
    (world.root / "m" / "config.yaml").write_text("version_policy: all")
    world.rest()
    write_model(world.root / "m" / "next")
    (world.root / "m" / "config.yaml").write_text("version_pol")
    rename_into_place(world.root / "m" / "next", world.root / "m" / "2")
    found = world.look()
    assert (found.faults, list(found.models["m"].versions)) == ({}, [1, 2])
    assert "m" in world.look(SETTLE).faults


def test_a_new_model_waits_for_a_configuration_that_is_being_written(world: World) -> None:
    """Though it was known to have none while its version, which took long, was being written."""
    path = write_model(world.root / "m" / "1")
    for _ in range(4):
        rewrite(path)
        assert world.look(0.5).unsettled
    config = world.root / "m" / "config.yaml"
    for half in ("inst", "instances: 1"):
        config.write_text(half)
        assert world.look(0.6).unsettled == {"m": "its files are still being written"}
    config.write_text("instances: 16")
    assert world.look(0.6).models == world.look(0.9).models == {}
    assert world.look(0.2).models["m"].config.instances == 16


def test_a_version_that_is_written_on_when_its_configuration_rests_is_not_there_yet(world: World) -> None:
    path = write_model(world.root / "m" / "1")
    config = world.root / "m" / "config.yaml"
    for count in range(1, 5):
        config.write_text(f"instances: {count}")
        assert world.look(0.5).unsettled
    rewrite(path)
    assert world.look(0.6).unsettled
    rewrite(path)
    assert world.look(0.6).unsettled == {"m": "its files are still being written"}
    assert numbers(world.look(SETTLE)) == {"m": [1]}


def remove_some(world: World) -> None:
    """Removes version 2 of a model that has two, and another model, after both were there."""
    for version in (1, 2):
        write_model(world.root / "m" / str(version))
    write_model(world.root / "n" / "1")
    world.rest()
    shutil.rmtree(world.root / "m" / "2")
    shutil.rmtree(world.root / "n")


def test_what_is_gone_goes_when_it_has_not_come_back_for_a_while(world: World) -> None:
    remove_some(world)
    before = world.look()
    assert numbers(before) == {"m": [1, 2], "n": [1]}
    assert numbers(world.look(SETTLE)) == {"m": [1]}
    write_model(world.root / "m" / "2")
    assert numbers(world.look()) == {"m": [1]}
    assert numbers(world.look(SETTLE)) == {"m": [1, 2]}


def test_what_is_removed_and_written_again_is_replaced_and_never_missed(world: World) -> None:
    for name in ("m", "n"):
        write_model(world.root / name / "1")
    before = world.rest()
    shutil.rmtree(world.root / "m" / "1")
    shutil.rmtree(world.root / "n")
    assert numbers(world.look()) == {"m": [1], "n": [1]}
    for name in ("m", "n"):
        write_model(world.root / name / "1")
    assert world.look() == before
    after = world.look(SETTLE)
    assert numbers(after) == {"m": [1], "n": [1]}
    assert all(after.models[name].signatures != before.models[name].signatures for name in "mn")


def test_what_is_not_taken_yet_is_told_once_and_what_is_gone_or_never_was_there_is_not(world: World, caplog) -> None:
    caplog.set_level("INFO")
    write_model(world.root / "m" / "1")
    write_model(world.root / "m" / "2")
    world.look()
    world.rest()
    shutil.rmtree(world.root / "m" / "2")
    world.rest()
    waits = "is not taken yet: its files are still being written"
    assert [record.message for record in caplog.records] == [
        f"model 'm': version 1 {waits}",
        f"model 'm': version 2 {waits}",
    ]


def test_a_model_that_goes_while_it_is_looked_at_is_no_trouble(world: World, monkeypatch, caplog) -> None:
    write_model(world.root / "m" / "1")
    before = world.rest()
    with monkeypatch.context() as patch:
        refuse(patch, world.root / "m" / "1", errno.ENOENT)
        assert world.look() == before
    assert not caplog.records


def test_a_model_whose_configuration_is_wrong_is_replaced_without_a_gap_too(world: World) -> None:
    """What is served of it goes on, and must not go when its directory does, which is about to be written again."""
    write_model(world.root / "m" / "1")
    world.rest()
    (world.root / "m" / "config.yaml").write_text("nam: m")
    broken = world.rest()
    assert list(broken.faults) == ["m"]
    shutil.rmtree(world.root / "m")
    assert world.look() == broken
    write_model(world.root / "m" / "1")
    assert list(world.look().unsettled) == ["m"]
    assert numbers(world.look(SETTLE)) == {"m": [1]}
    shutil.rmtree(world.root / "m")
    world.look()
    assert world.look(SETTLE) == Scan({}, {}, {})


def test_without_settling_what_is_gone_goes_at_once(world: World) -> None:
    remove_some(world)
    assert numbers(world.look(settle=False)) == {"m": [1]}


def test_a_directory_that_was_renamed_into_place_is_there_at_once(world: World) -> None:
    write_model(world.root / "m" / "1")
    world.rest()
    write_model(world.root / "m" / "2.tmp")
    write_model(world.root / "n.tmp" / "1")
    assert numbers(world.look(5.0)) == {"m": [1]}
    rename_into_place(world.root / "m" / "2.tmp", world.root / "m" / "2")
    rename_into_place(world.root / "n.tmp", world.root / "n")
    assert numbers(world.look()) == {"m": [1, 2], "n": [1]}


def test_a_directory_with_an_old_time_that_is_empty_or_has_an_empty_one_is_not_complete(world: World) -> None:
    """As `rsync` makes them: the times first, then what is in them."""
    (world.root / "m" / "1").mkdir(parents=True)
    os.utime(world.root / "m" / "1", (1, 1))
    os.utime(world.root / "m", (1, 1))
    write_model(world.root / "n" / "1")
    (world.root / "n" / "1" / "variables").mkdir()
    os.utime(world.root / "n" / "1", (1, 1))
    found = world.look()
    assert (found.models, sorted(found.unsettled)) == ({}, ["m", "n"])


def test_a_file_written_after_the_directory_got_its_time_keeps_it_waiting(world: World) -> None:
    write_model(world.root / "m" / "1")
    world.rest()
    path = write_model(world.root / "m" / "2")
    os.utime(path.parent, (1, 1))
    time.sleep(0.02)  # longer than a tick of the clock that files' times come from
    rewrite(path)
    assert numbers(world.look()) == {"m": [1]}


def test_files_that_are_old_by_the_wall_clock_are_there_at_first_sight(tmp_path: Path) -> None:
    write_model(tmp_path / "m" / "1")
    assert numbers(World(tmp_path, lambda: time.time() + 60).look()) == {"m": [1]}
    assert World(tmp_path, lambda: time.time() - 60).look().unsettled


def test_on_a_remote_file_system_only_what_is_observed_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path / "m" / "1")
    mount = Mount(tmp_path.stat().st_dev, "/", "nfs4", False)
    monkeypatch.setattr(tracking, "read_mounts", lambda: [mount])
    world = World(tmp_path, lambda: time.time() + 60)
    assert world.look().unsettled
    assert numbers(world.look(SETTLE)) == {"m": [1]}


@pytest.mark.parametrize(
    "name", ["model.bin.part", "model.fake.tmp", ".model.fake.Xy12Zq", "a.crdownload", "b.filepart", "c.partial"]
)
def test_an_unfinished_upload_keeps_a_version_waiting_until_it_ends(world: World, name: str) -> None:
    write_model(world.root / "m" / "1")
    (world.root / "m" / "1" / name).write_text("")
    found = world.rest()
    assert found.unsettled == {"m": f"{name} is still being uploaded"}
    assert world.repository.due == inf
    (world.root / "m" / "1" / name).rename(world.root / "m" / "1" / "weights")
    assert world.look().unsettled
    assert numbers(world.look(SETTLE)) == {"m": [1]}


@pytest.mark.parametrize("name", [".DS_Store", ".model.fake.swp", "notes.txt~", ".git", ".model.backup"])
def test_what_editors_and_others_leave_behind_is_passed_over(world: World, name: str) -> None:
    write_model(world.root / "m" / "1")
    before = world.rest()
    (world.root / "m" / "1" / name).write_text("")
    assert world.rest() == before


def test_a_marker_written_after_the_files_makes_a_version_complete_at_once(world: World) -> None:
    write_model(world.root / "m" / "1")
    world.rest()
    write_model(world.root / "m" / "2")
    (world.root / "m" / "2" / "weights.part").write_text("")  # whoever wrote the marker knows better
    assert numbers(world.look()) == {"m": [1]}
    (world.root / "m" / "2" / ".ready").touch()
    assert numbers(world.look()) == {"m": [1, 2]}
    write_model(world.root / "m" / "3")
    (world.root / "m" / ".ready").touch()
    assert numbers(world.look()) == {"m": [1, 2, 3]}


def test_a_marker_that_is_older_than_a_file_says_nothing(world: World) -> None:
    write_model(world.root / "m" / "1")
    (world.root / "m" / ".ready").touch()
    world.rest()
    (world.root / "m" / "2").mkdir()
    (world.root / "m" / "2" / ".ready").touch()
    assert numbers(world.look()) == {"m": [1]}
    time.sleep(0.02)  # longer than a tick of the clock that files' times come from
    write_model(world.root / "m" / "2")
    assert numbers(world.look()) == {"m": [1]}


@pytest.mark.parametrize("place", ["1/.ready", ".ready"])
def test_where_markers_are_required_nothing_is_taken_without_one(tmp_path: Path, place: str) -> None:
    world = World(tmp_path, require_ready_marker=True)
    path = write_model(tmp_path / "m" / "1")
    assert "--require-ready-marker" in world.rest().unsettled["m"]
    (tmp_path / "m" / place).touch()
    found = world.rest()
    assert numbers(found) == {"m": [1]}
    time.sleep(0.02)  # longer than a tick of the clock that files' times come from
    rewrite(path)
    assert world.rest() == found  # the marker is older than the file
    (tmp_path / "m" / place).touch()
    assert world.rest().models["m"].signatures != found.models["m"].signatures


def test_without_settling_too_nothing_is_taken_without_a_marker_that_is_required(tmp_path: Path) -> None:
    """Where the repository is not watched, nobody waits either; but half a version must not be served there."""
    world = World(tmp_path, require_ready_marker=True)
    for version in (1, 2):
        write_model(tmp_path / "m" / str(version))
    write_model(tmp_path / "n" / "1")
    (tmp_path / "m" / "1" / ".ready").touch()
    found = world.look(settle=False)
    assert numbers(found) == {"m": [1]}
    assert found.faults == {"n": UNMARKED}
    for place in ("n/1", "m/2"):
        (tmp_path / place / "weights.part").touch()
        (tmp_path / place / ".ready").touch()
    assert numbers(world.look(settle=False)) == {"m": [1, 2], "n": [1]}  # they were marked after all else


def test_without_settling_an_unfinished_upload_is_not_there(world: World) -> None:
    for version in (1, 2):
        write_model(world.root / "m" / str(version))
    write_model(world.root / "n" / "1")
    for place in ("m/2", "n/1"):
        (world.root / place / "weights.part").touch()
    found = world.look(settle=False)
    assert numbers(found) == {"m": [1]}
    assert found.faults == {"n": "weights.part is still being uploaded"}
    for place in ("m/2", "n/1"):
        (world.root / place / "weights.part").unlink()
    assert numbers(world.look(settle=False)) == {"m": [1, 2], "n": [1]}


def test_a_switch_of_the_data_link_is_a_change_of_what_is_behind_it(world: World) -> None:
    for number in (1, 2):
        write_model(world.root / f"..2026_{number}" / "m" / "1")
    (world.root / "..data").symlink_to("..2026_1")
    (world.root / "m").symlink_to("..data/m")
    before = world.rest()
    assert numbers(before) == {"m": [1]}
    (world.root / "..data_tmp").symlink_to("..2026_2")
    (world.root / "..data_tmp").rename(world.root / "..data")
    assert world.look().models["m"] is before.models["m"]
    after = world.look(SETTLE)
    assert after.models["m"].signatures[1] != before.models["m"].signatures[1]
    assert after.models["m"].versions == before.models["m"].versions


def test_a_broken_configuration_is_a_fault_under_the_models_name_until_it_is_mended(tmp_path: Path) -> None:
    write_model(tmp_path / "models" / "1")
    (tmp_path / "models" / "config.yaml").write_text("name: digits")
    world = World(tmp_path / "models")
    assert numbers(world.rest()) == {"digits": [1]}
    (tmp_path / "models" / "config.yaml").write_text("nam: digits")
    found = world.rest()
    assert (found.models, list(found.faults)) == ({}, ["digits"])
    (tmp_path / "models" / "config.yaml").write_text("name: digits")
    assert numbers(world.rest()) == {"digits": [1]}


def test_a_stray_file_does_not_make_one_model_of_a_repository(world: World) -> None:
    write_model(world.root / "m" / "1")
    before = world.rest()
    write_model(world.root, name="stray.fake")
    assert world.rest() == before


def test_a_root_is_judged_anew_while_it_has_no_model(tmp_path: Path) -> None:
    world = World(tmp_path / "iris")
    (tmp_path / "iris" / "1").mkdir(parents=True)
    assert set(world.rest().faults) == {"1"}  # so far it could be a model named 1
    write_model(tmp_path / "iris" / "1")
    assert numbers(world.rest()) == {"iris": [1]}
    shutil.rmtree(tmp_path / "iris" / "1")
    write_model(tmp_path / "iris" / "m" / "3")
    assert numbers(world.look()) == {"iris": [1]}, "it may be about to be replaced"
    assert numbers(world.rest()) == {}
    assert numbers(world.rest()) == {"m": [3]}


def refuse(monkeypatch: pytest.MonkeyPatch, directory: Path, number: int = errno.EIO) -> None:
    listing = os.scandir

    def scandir(path: str | Path):
        if Path(path) == directory:
            raise OSError(number, os.strerror(number), str(path))
        return listing(path)

    monkeypatch.setattr(os, "scandir", scandir)


def test_a_model_that_cannot_be_read_for_a_moment_stays(world: World, monkeypatch, caplog) -> None:
    write_model(world.root / "m" / "1")
    before = world.rest()
    with monkeypatch.context() as patch:
        refuse(patch, world.root / "m" / "1")
        write_model(world.root / "new" / "1")
        for _ in range(3):
            assert world.look().models == before.models
        assert [record.message for record in caplog.records if "stays as it was" in record.message] == [
            f"model 'm' stays as it was: cannot read {world.root}/m/1: Input/output error"
        ]
    assert numbers(world.rest()) == {"m": [1], "new": [1]}


def test_a_configuration_that_cannot_be_read_for_a_moment_leaves_the_model(world: World, monkeypatch, caplog) -> None:
    write_model(world.root / "m" / "1")
    config = world.root / "m" / "config.yaml"
    config.write_text("instances: 1")
    before = world.rest()
    config.write_text("instances: 22")
    with monkeypatch.context() as patch:

        def fail(path: Path, *arguments: object, **options: object) -> bytes:
            raise OSError(5, "Input/output error", str(path))

        patch.setattr(Path, "read_bytes", fail)
        patch.setattr(Path, "read_text", fail)
        for _ in range(3):
            assert world.rest().models == before.models
        assert sum("stays as it was" in record.message for record in caplog.records) == 1
    assert world.look().models["m"].config.instances == 22


def test_a_root_that_is_away_for_a_moment_changes_nothing(tmp_path: Path) -> None:
    world = World(tmp_path / "models")
    write_model(tmp_path / "models" / "m" / "1")
    before = world.rest()
    (tmp_path / "models").rename(tmp_path / "away")
    with pytest.raises(ConfigError, match="No such file or directory"):
        world.look()
    (tmp_path / "away").rename(tmp_path / "models")
    assert world.look().models["m"] is before.models["m"]


def test_that_a_repository_is_empty_is_told_once_and_again_when_it_becomes_so(world: World, caplog) -> None:
    caplog.set_level("INFO")

    def times() -> int:
        return sum(record.message == f"the model repository {world.root} is empty" for record in caplog.records)

    world.rest()
    assert times() == 1
    write_model(world.root / "m" / "1")
    world.rest()
    shutil.rmtree(world.root / "m")
    world.rest()
    assert times() == 2


def test_a_broken_model_that_is_mended_is_tried_again(world: World) -> None:
    (world.root / "m").mkdir()
    assert "no model recognised" in world.rest().faults["m"]
    write_model(world.root / "m", fake_model())
    assert numbers(world.rest()) == {"m": [1]}


def test_a_look_at_a_thousand_models_asks_no_backend_and_reads_no_file(world: World, monkeypatch) -> None:
    for number in range(20):
        write_model(world.root / f"m{number}" / "1")
        (world.root / f"m{number}" / "config.yaml").write_text("")
    before = world.rest()

    def touched(*arguments: object, **options: object) -> None:
        raise AssertionError(arguments)

    monkeypatch.setattr(io, "open", touched)
    monkeypatch.setattr(FakeBackend, "find", touched)
    assert world.look() == before


# -- whatever happens ------------------------------------------------------------------------------------------------


def write(root: Path, model: str, version: str) -> None:
    path = root / model / version / "model.fake"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fake_model()) + " " * (path.stat().st_size % 7 if path.exists() else 0))


def remove(root: Path, model: str, version: str) -> None:
    shutil.rmtree(root / model / version, ignore_errors=True)


def remove_the_file(root: Path, model: str, version: str) -> None:
    (root / model / version / "model.fake").unlink(missing_ok=True)


def remove_the_model(root: Path, model: str, version: str) -> None:
    shutil.rmtree(root / model, ignore_errors=True)


def configure(root: Path, model: str, version: str) -> None:
    (root / model).mkdir(exist_ok=True)
    (root / model / "config.yaml").write_text(f"version_policy: {{specific: [{version}]}}")


def break_the_configuration(root: Path, model: str, version: str) -> None:
    (root / model).mkdir(exist_ok=True)
    (root / model / "config.yaml").write_text("instances: many")


def remove_the_configuration(root: Path, model: str, version: str) -> None:
    (root / model / "config.yaml").unlink(missing_ok=True)


def swap(root: Path, model: str, version: str) -> None:
    write(root, model, "next.tmp")
    remove(root, model, version)
    rename_into_place(root / model / "next.tmp", root / model / version)


def make_flat(root: Path, model: str, version: str) -> None:
    (root / model).mkdir(exist_ok=True)
    (root / model / "model.fake").write_text(json.dumps(fake_model()))


ACTIONS = st.sampled_from(
    [
        write, remove, remove_the_file, remove_the_model, configure, break_the_configuration, remove_the_configuration,
        swap, make_flat,
    ]
)  # fmt: skip
STEPS = st.lists(
    st.tuples(ACTIONS, st.sampled_from("ab"), st.sampled_from("12"), st.floats(0.0, 2 * SETTLE), st.booleans()),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_what_rests_is_what_a_scan_finds_whatever_happened_before(steps) -> None:
    with TemporaryDirectory() as directory:
        world = World(Path(directory))
        write(world.root, "keep", "1")  # so that the root is a repository all the time
        world.rest()
        for act, model, version, later, settle in steps:
            act(world.root, model, version)
            found = world.look(later, settle=settle)
            assert "keep" in found.models
            for source in found.models.values():
                assert set(source.versions) <= set(source.available) == set(source.signatures)
        world.rest()
        assert world.repository.due == inf
        assert world.look() == scan([world.root], world.backends)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_a_version_is_given_only_as_it_was_while_it_rested(steps) -> None:
    """What is written anew before every look never rests, so it is never given as it is."""
    with TemporaryDirectory() as directory:
        world = World(Path(directory))
        write(world.root, "keep", "1")
        before = world.rest().models["keep"]
        restless = world.root / "keep" / "2" / "model.fake"
        for number, (act, model, version, later, _) in enumerate(steps):
            act(world.root, model, version)
            restless.parent.mkdir(exist_ok=True)
            restless.write_text(" " * number)
            found = world.look(min(later, 0.9 * SETTLE)).models["keep"]
            assert found is before
