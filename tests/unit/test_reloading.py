"""A reload by hand: what it waits for, and what it says of what came of it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from fake_backend import FakeBackend, write_model
from vintner.backend import Backends
from vintner.errors import InvalidArgument, Unsupported
from vintner.lifecycle import State
from vintner.manager import IndexEntry, Manager
from vintner.model_source import Scan
from vintner.ovms_view import document, failures
from vintner.reloading import Reloading, ReloadRunning
from vintner.repository import scan
from vintner.service import Service


@pytest.mark.parametrize(
    ("entry", "version", "state", "code", "message"),
    [
        (IndexEntry("m", "1", State.LOADING, ""), "1", "LOADING", "OK", "OK"),
        (IndexEntry("m", "1", State.READY, ""), "1", "AVAILABLE", "OK", "OK"),
        (IndexEntry("m", "1", State.READY, "served unbatched"), "1", "AVAILABLE", "OK", "OK"),
        (IndexEntry("m", "1", State.UNLOADING, ""), "1", "UNLOADING", "OK", "OK"),
        (IndexEntry("m", "1", State.UNAVAILABLE, "unloaded"), "1", "END", "OK", "OK"),
        (
            IndexEntry("m", "2", State.UNAVAILABLE, "no such file", failed=True),
            "2",
            "LOADING",
            "UNKNOWN",
            "no such file",
        ),
        (IndexEntry("m", "", State.UNAVAILABLE, "bad layout", failed=True), "0", "LOADING", "UNKNOWN", "bad layout"),
    ],
)
def test_a_state_is_told_in_openvino_model_servers_words(
    entry: IndexEntry, version: str, state: str, code: str, message: str
) -> None:
    status = {"version": version, "state": state, "status": {"error_code": code, "error_message": message}}
    assert document([entry]) == {"m": {"model_version_status": [status]}}
    assert bool(failures([entry])) is (code != "OK")


def test_versions_are_told_by_model() -> None:
    entries = [IndexEntry("a", "1", State.READY, ""), IndexEntry("b", "1", State.READY, "")]
    entries.insert(1, IndexEntry("a", "2", State.LOADING, ""))
    told = document(entries)
    assert [(name, len(model["model_version_status"])) for name, model in told.items()] == [("a", 2), ("b", 1)]
    assert document([]) == {}


class Site:
    """A repository with a manager, and what hands the one over to the other."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.backend = FakeBackend()
        self.backends = Backends(made={"fake": self.backend})
        self.manager = Manager(self.backends)

    def refresh(self) -> Scan:
        found = scan([self.root], self.backends)
        self.manager.aspire(found)
        return found


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_reload_waits_until_what_is_wanted_is_there(site: Site) -> None:
    write_model(site.root / "iris" / "1")
    service = Service(site.manager, refresh=site.refresh)
    assert service.reload() is True
    assert service.version_states()["iris"]["model_version_status"][0]["state"] == "AVAILABLE"
    assert service.reload() is False
    site.manager.stop(5)


def test_a_server_without_a_refresh_cannot_be_reloaded(site: Site) -> None:
    with pytest.raises(Unsupported):
        Service(site.manager).reload()


def test_what_is_no_longer_wanted_fails_no_reload(site: Site) -> None:
    write_model(site.root / "iris" / "1")
    (site.root / "rose").mkdir()
    (site.root / "rose" / "1").mkdir()
    reloading = Reloading(site.manager, site.refresh)
    with pytest.raises(InvalidArgument, match="model 'rose' version 1"):
        reloading.reload()
    (site.root / "rose" / "1").rmdir()
    (site.root / "rose").rmdir()
    reloading.reload()
    site.manager.stop(5)


def test_a_second_reload_is_refused_while_one_runs(site: Site) -> None:
    write_model(site.root / "iris" / "1")
    begun, go_on = threading.Event(), threading.Event()

    def refresh() -> Scan:
        begun.set()
        assert go_on.wait(10)
        return site.refresh()

    reloading = Reloading(site.manager, refresh)
    first = threading.Thread(target=reloading.reload)
    first.start()
    assert begun.wait(10)
    with pytest.raises(ReloadRunning):
        reloading.reload()
    go_on.set()
    first.join(10)
    assert reloading.reload() is False
    site.manager.stop(5)


def test_a_load_without_end_is_not_waited_for_for_ever(site: Site) -> None:
    site.manager.settled.clear()
    assert Reloading(site.manager, lambda: Scan({}, {}), patience=0.01).reload() is False
