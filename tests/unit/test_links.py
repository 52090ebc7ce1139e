"""Which links lead out of a root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fake_backend import FakeBackend, write_model
from vintner.backend import Backends
from vintner.links import leaves
from vintner.repository import scan
from vintner.tracking import Repository


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root beside which there is something to be reached."""
    root = tmp_path / "models"
    (root / "m" / "1").mkdir(parents=True)
    (root / "blobs").mkdir()
    (root / "blobs" / "a").write_text("a")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a").write_text("a")
    return root


@pytest.mark.parametrize(
    ("target", "out"),
    [
        ("../../blobs/a", False),
        ("../../../outside/a", True),
        ("../../../models/blobs/a", True),  # the way itself leads out, wherever it ends
        ("{root}/blobs/a", False),
        ("{root}/../outside/a", True),
        ("{root}", False),
        ("{root}else", True),
        ("/etc/hostname", True),
        ("nowhere", False),
        ("../1/link", False),
        ("through/a", True),
        ("./././../1/x", False),
    ],
)
def test_where_a_link_leads(root: Path, target: str, out: bool) -> None:
    (root / "m" / "1" / "through").symlink_to("../../../outside")
    (root / "m" / "1" / "link").symlink_to(target.format(root=root))
    assert leaves(str(root), "m/1/link") is out


def test_a_root_that_is_a_link_or_is_reached_through_proc_is_judged_by_what_is_below_it(root: Path) -> None:
    (root.parent / "alias").symlink_to("models")
    (root / "m" / "1" / "inside").symlink_to("../../blobs/a")
    (root / "m" / "1" / "absolute").symlink_to(root / "blobs" / "a")
    (root / "m" / "1" / "outside").symlink_to("../../../outside/a")
    for way in (
        root.parent / "alias",
        Path(f"/proc/{os.getpid()}/root{root}"),
        Path(f"/proc/self/cwd/{'../' * 30}{root}"),
    ):
        assert [leaves(os.path.abspath(way), f"m/1/{name}") for name in ("inside", "absolute", "outside")] == [
            False, False, True,
        ]  # fmt: skip


# -- in a repository -------------------------------------------------------------------------------------------------


@pytest.fixture
def backends() -> Backends:
    return Backends(made={"fake": FakeBackend()})


@pytest.mark.parametrize("what", ["m", "m/1", "m/1/model.fake", "m/config.yaml", "m/warmup", "m/1/deep/labels"])
def test_a_link_out_of_the_repository_is_a_fault_unless_it_is_allowed(
    tmp_path: Path, backends: Backends, what: str
) -> None:
    write_model(tmp_path / "models" / "good" / "1")
    write_model(tmp_path / "models" / "m" / "1")
    (tmp_path / "models" / "m" / "1" / "deep").mkdir()
    (tmp_path / "models" / "m" / "1" / "deep" / "labels").write_text("")
    (tmp_path / "models" / "m" / "config.yaml").write_text("")
    (tmp_path / "models" / "m" / "warmup").mkdir()
    moved = tmp_path / "models" / what
    moved.rename(tmp_path / "elsewhere")
    moved.symlink_to("../" * len(Path(what).parts) + "elsewhere")
    found = scan([tmp_path / "models"], backends)
    assert list(found.models) == ["good"]
    assert found.faults["m"].startswith(f"{what} links to ../")
    assert "outside the model repository; --follow-external-links allows it" in found.faults["m"]
    allowed = scan([tmp_path / "models"], backends, follow_external_links=True)
    assert (list(allowed.models), allowed.faults) == (["good", "m"], {})


def test_roots_with_links_that_were_followed_out_are_known(tmp_path: Path, backends: Backends) -> None:
    for name in ("inside", "leading_out"):
        write_model(tmp_path / name / "m" / "1")
        (tmp_path / name / "m" / "1" / "labels").symlink_to("model.fake")
    (tmp_path / "leading_out" / "m" / "1" / "names").symlink_to("/etc/hostname")
    roots = [tmp_path / "inside", tmp_path / "leading_out"]
    repository = Repository(roots, backends, follow_external_links=True)
    repository.scan(0.0)
    assert repository.leads_out == [tmp_path / "leading_out"]


def test_links_in_circles_and_to_nowhere_end(tmp_path: Path, backends: Backends) -> None:
    write_model(tmp_path / "m" / "1")
    (tmp_path / "m" / "1" / "up").symlink_to("..")
    (tmp_path / "m" / "1" / "self").symlink_to("self")
    (tmp_path / "m" / "1" / "gone").symlink_to("nowhere")
    (tmp_path / "m" / "2").symlink_to("2")
    (tmp_path / "m" / "3").symlink_to("nowhere")
    found = scan([tmp_path], backends)
    assert list(found.models["m"].available) == [1]
