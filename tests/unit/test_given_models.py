"""Models that a `config.json` gives, followed look after look beside the repositories."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from fake_backend import FakeBackend, write_model
from vintner.backend import Backends
from vintner.errors import ConfigError
from vintner.model_source import Scan
from vintner.ovms_file import OvmsFile
from vintner.tracking import Repository

LATER = 1000.0


class Site:
    """`config.json` beside two models, `iris` with versions 1 and 2, and `rose` with 1."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for path in ("iris/1", "iris/2", "rose/1"):
            write_model(root / path)
        self.file = root / "config.json"
        self.write(iris={})
        backends = Backends(made={"openvino": FakeBackend()})
        self.repository = Repository([], backends, given=OvmsFile(self.file), wall_clock=lambda: 2e9)
        self.now = 0.0

    def write(self, **models: dict[str, Any]) -> None:
        entries = [{"config": {"name": name, "base_path": name, **more}} for name, more in models.items()]
        self.file.write_text(json.dumps({"model_config_list": entries}))

    def look(self, settle: bool = True) -> Scan:
        self.now += LATER
        return self.repository.scan(self.now, settle)

    def versions(self, settle: bool = True) -> dict[str, list[int]]:
        self.look(settle)
        found = self.look(settle)
        assert not found.faults
        return {name: list(source.versions) for name, source in found.models.items()}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_what_the_file_gives_is_followed(site: Site) -> None:
    assert site.versions() == {"iris": [2]}
    write_model(site.root / "iris" / "5")
    assert site.versions() == {"iris": [5]}
    shutil.rmtree(site.root / "iris" / "5")
    site.write(iris={"model_version_policy": {"all": {}}}, rose={})
    assert site.versions() == {"iris": [1, 2], "rose": [1]}
    site.write(rose={})
    assert site.versions() == {"rose": [1]}


def test_what_did_not_change_is_the_same_object(site: Site) -> None:
    site.versions()
    first = site.look().models["iris"]
    assert site.look().models["iris"] is first
    site.write(iris={"nireq": 2})
    changed = site.look().models["iris"]
    assert (changed.config.instances, changed.signatures) == (2, first.signatures)


def test_two_models_may_be_in_one_directory(site: Site) -> None:
    site.write(iris={}, old={"base_path": "iris", "model_version_policy": {"specific": {"versions": [1]}}})
    assert site.versions() == {"iris": [2], "old": [1]}


def test_a_broken_file_is_an_error_only_to_who_asks_for_it(site: Site) -> None:
    site.versions()
    site.file.write_text("{")
    assert site.versions() == {"iris": [2]}
    with pytest.raises(ConfigError, match="not valid JSON"):
        site.look(settle=False)
    site.write(rose={})
    assert site.versions(settle=False) == {"rose": [1]}


def test_a_wrong_entry_is_a_fault_until_it_is_mended(site: Site) -> None:
    site.versions()
    site.write(iris={"nireq": "many"}, rose={})
    found = site.look(settle=False)
    assert list(found.models) == ["rose"]
    assert "nireq" in found.faults["iris"]
    site.write(iris={}, rose={})
    assert site.versions() == {"iris": [2], "rose": [1]}
