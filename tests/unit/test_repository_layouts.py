"""What a scan makes of the layouts that people bring, sound and broken."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fake_backend import FakeBackend, fake_model, write_model
from vintner.backend import Backends
from vintner.cores import available_cores
from vintner.errors import ConfigError
from vintner.load_specs import find_model, load_specs
from vintner.model_source import Scan
from vintner.repository import check_model_name, scan
from vintner.validation import Finding, validate


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def backends(backend: FakeBackend) -> Backends:
    return Backends(made={"fake": backend})


def versions(found: Scan) -> dict[str, list[int]]:
    """The versions of every model; a test that has no fault in mind has none."""
    assert not found.faults
    return {name: list(source.versions) for name, source in found.models.items()}


def tree(root: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_size) for path in [root, *root.rglob("*")]}


# -- layouts ---------------------------------------------------------------------------------------------------------


def test_a_flat_directory_is_version_1_of_one_model(tmp_path: Path, backends: Backends):
    write_model(tmp_path / "iris")
    found = scan([tmp_path / "iris"], backends)
    assert versions(found) == {"iris": [1]}
    assert found.models["iris"].versions[1] == tmp_path / "iris"


def test_integer_directories_in_the_root_are_versions_of_one_model(tmp_path: Path, backends: Backends):
    write_model(tmp_path / "iris" / "1")
    write_model(tmp_path / "iris" / "3")
    (tmp_path / "iris" / "config.yaml").write_text("version_policy: all")
    assert versions(scan([tmp_path / "iris"], backends)) == {"iris": [1, 3]}


def test_a_repository_mixes_models_with_and_without_versions(tmp_path: Path, backends: Backends):
    write_model(tmp_path / "flat")
    write_model(tmp_path / "versioned" / "1")
    write_model(tmp_path / "versioned" / "2")
    (tmp_path / "README.md").write_text("not a model")
    assert versions(scan([tmp_path], backends)) == {"flat": [1], "versioned": [2]}


def test_models_may_have_numbers_for_names(tmp_path: Path, backends: Backends):
    write_model(tmp_path / "7" / "1")
    write_model(tmp_path / "8" / "2")
    assert versions(scan([tmp_path], backends)) == {"7": [1], "8": [2]}


def test_only_the_versions_that_the_policy_selects_are_wanted(tmp_path: Path, backends: Backends):
    for version in (1, 2, 10):
        write_model(tmp_path / "m" / str(version))
    assert versions(scan([tmp_path], backends)) == {"m": [10]}
    (tmp_path / "m" / "config.yaml").write_text("version_policy: {specific: [1, 2, 4]}")
    assert versions(scan([tmp_path], backends)) == {"m": [1, 2]}


@pytest.mark.parametrize(
    "name", ["0", "01", "-1", "1.0", "v1", "１", ".1", "2.tmp", "warmup", "configs", "initial_state"]
)
def test_what_is_no_positive_integer_is_no_version(tmp_path: Path, backends: Backends, name: str):
    write_model(tmp_path / "m" / "1")
    write_model(tmp_path / "m" / name)
    (tmp_path / "m" / "config.yaml").write_text("version_policy: all")
    assert versions(scan([tmp_path], backends)) == {"m": [1]}


def test_a_file_named_like_a_version_is_no_version(tmp_path: Path, backends: Backends):
    write_model(tmp_path / "m" / "1")
    (tmp_path / "m" / "2").write_text("")
    assert versions(scan([tmp_path], backends)) == {"m": [1]}


@pytest.mark.parametrize("name", [".git", "..data", "copy.tmp", "lost+found"])
def test_hidden_and_unfinished_directories_are_no_models(tmp_path: Path, backends: Backends, name: str):
    write_model(tmp_path / "m" / "1")
    write_model(tmp_path / name / "1")
    assert versions(scan([tmp_path], backends)) == {"m": [1]}


def test_an_empty_repository_is_fine(tmp_path: Path, backends: Backends):
    assert scan([tmp_path], backends) == Scan({}, {})


def test_models_come_from_all_repositories(tmp_path: Path, backends: Backends):
    write_model(tmp_path / "first" / "a" / "1")
    write_model(tmp_path / "second" / "1")
    assert versions(scan([tmp_path / "first", tmp_path / "second"], backends)) == {"a": [1], "second": [1]}


def test_a_repository_that_is_given_twice_counts_once(tmp_path: Path, backends: Backends):
    write_model(tmp_path / "m" / "1")
    (tmp_path.parent / "link").symlink_to(tmp_path)
    assert versions(scan([tmp_path, tmp_path.parent / "link", tmp_path], backends)) == {"m": [1]}


def test_the_links_of_a_kubernetes_mount_are_followed(tmp_path: Path, backends: Backends):
    write_model(tmp_path / "..2026_11_21" / "m" / "1")
    (tmp_path / "..data").symlink_to("..2026_11_21")
    (tmp_path / "m").symlink_to("..data/m")
    assert versions(scan([tmp_path], backends)) == {"m": [1]}


def test_a_mount_that_is_a_link_is_followed_and_keeps_its_name(tmp_path: Path, backends: Backends):
    write_model(tmp_path / "proc" / "root")
    (tmp_path / "models").symlink_to("proc/root")
    assert versions(scan([tmp_path / "models"], backends)) == {"models": [1]}


def test_links_to_nowhere_and_in_circles_are_passed_over_with_a_warning(
    tmp_path: Path, backends: Backends, caplog: pytest.LogCaptureFixture
):
    write_model(tmp_path / "m" / "1")
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "circle").symlink_to("circle")
    assert versions(scan([tmp_path], backends)) == {"m": [1]}
    assert "links to nowhere" in caplog.text
    assert "links to circle" in caplog.text


def test_a_scan_writes_nothing(tmp_path: Path, backends: Backends):
    write_model(tmp_path / "m" / "1")
    write_model(tmp_path / "flat")
    (tmp_path / "m" / "config.yaml").write_text("instances: 2")
    before = tree(tmp_path)
    scan([tmp_path], backends)
    assert tree(tmp_path) == before


# -- names -----------------------------------------------------------------------------------------------------------


def test_the_name_of_a_single_model_can_be_given(tmp_path: Path, backends: Backends):
    write_model(tmp_path / "models")
    assert versions(scan([tmp_path / "models"], backends, "iris")) == {"iris": [1]}
    assert versions(scan([tmp_path], backends, "iris")) == {"iris": [1]}


def test_a_default_name_is_for_a_single_model_that_nothing_else_names(tmp_path: Path, backends: Backends):
    write_model(tmp_path / "one" / "m" / "1")
    write_model(tmp_path / "flat")
    write_model(tmp_path / "numbered" / "3")
    assert versions(scan([tmp_path / "flat"], backends, None, "service")) == {"service": [1]}
    assert versions(scan([tmp_path / "numbered"], backends, None, "service")) == {"service": [3]}
    assert versions(scan([tmp_path / "one"], backends, None, "service")) == {"m": [1]}
    assert versions(scan([tmp_path / "one"], backends, "iris", "service")) == {"iris": [1]}
    assert versions(scan([tmp_path / "one", tmp_path / "flat"], backends, None, "service")) == {"m": [1], "flat": [1]}
    (tmp_path / "flat" / "config.yaml").write_text("name: digits")
    assert versions(scan([tmp_path / "flat"], backends, None, "service")) == {"digits": [1]}


def test_one_name_for_several_models_is_an_error_that_lists_them(tmp_path: Path, backends: Backends):
    write_model(tmp_path / "a" / "1")
    write_model(tmp_path / "b" / "1")
    with pytest.raises(ConfigError, match=r"'iris' can only name a single model; there are 2: a, b"):
        scan([tmp_path], backends, "iris")


def test_a_mounted_model_is_named_by_its_configuration_unless_a_name_is_given(tmp_path: Path, backends: Backends):
    write_model(tmp_path / "models" / "1")
    (tmp_path / "models" / "config.yaml").write_text("name: digits")
    assert versions(scan([tmp_path / "models"], backends)) == {"digits": [1]}
    assert versions(scan([tmp_path / "models"], backends, "iris")) == {"iris": [1]}


def test_a_configured_name_must_be_the_directorys(tmp_path: Path, backends: Backends):
    write_model(tmp_path / "a" / "1")
    (tmp_path / "a" / "config.yaml").write_text("name: b")
    found = scan([tmp_path], backends)
    assert found.faults == {"a": "the configuration names the model 'b', its directory 'a'"}
    assert not found.models


@pytest.mark.parametrize("name", ["résumé", "日本語", "a b", "a:b", "..a", "%2F", "a" * 200])
def test_a_model_may_have_almost_any_name(name: str):
    check_model_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a\0b", "a\nb", "\x7f", "a\x85", "\udcff"])
def test_some_names_no_model_can_have(tmp_path: Path, backends: Backends, name: str):
    write_model(tmp_path / "m")
    with pytest.raises(ConfigError):
        check_model_name(name)
    with pytest.raises(ConfigError):
        scan([tmp_path / "m"], backends, name)


def test_a_directory_with_an_impossible_name_is_a_fault_that_can_be_shown(tmp_path: Path, backends: Backends):
    write_model(tmp_path / "good" / "1")
    write_model(tmp_path / "a\nb" / "1")
    write_model(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")) / "1")
    found = scan([tmp_path], backends)
    assert list(found.models) == ["good"]
    assert set(found.faults) == {"a\\nb", "\\udcff"}
    "".join([*found.faults, *found.faults.values()]).encode()


def test_a_name_in_two_repositories_is_served_from_neither(tmp_path: Path, backends: Backends):
    write_model(tmp_path / "first" / "m" / "1")
    write_model(tmp_path / "first" / "other" / "1")
    (tmp_path / "second" / "m").mkdir(parents=True)
    found = scan([tmp_path / "first", tmp_path / "second"], backends)
    assert found.faults == {"m": "model appears in two or more repositories"}
    assert list(found.models) == ["other"]


# -- faults ----------------------------------------------------------------------------------------------------------


def test_a_root_that_is_not_there_or_no_directory_is_an_error(tmp_path: Path, backends: Backends):
    with pytest.raises(ConfigError, match=r"cannot read the model repository .*absent: No such file or directory"):
        scan([tmp_path / "absent"], backends)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot read the model repository .*file: Not a directory"):
        scan([tmp_path / "file"], backends)


def unreadable(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """Permissions alone would not stop tests that run as root."""
    listing = os.scandir

    def scandir(path: str | Path):
        if Path(path) == directory:
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(os, "scandir", scandir)


def test_a_root_that_cannot_be_read_is_an_error(tmp_path: Path, backends: Backends, monkeypatch):
    unreadable(monkeypatch, tmp_path)
    with pytest.raises(ConfigError, match=r"cannot read the model repository .*: Permission denied"):
        scan([tmp_path], backends)


def test_a_model_that_cannot_be_read_does_not_hide_the_others(tmp_path: Path, backends: Backends, monkeypatch):
    write_model(tmp_path / "good" / "1")
    write_model(tmp_path / "locked" / "1")
    unreadable(monkeypatch, tmp_path / "locked")
    found = scan([tmp_path], backends)
    assert list(found.models) == ["good"]
    assert found.faults == {"locked": f"cannot read {tmp_path / 'locked'}: Permission denied"}


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "no model recognised by fake in m/ (it holds nothing)"),
        ({"notes.txt": ""}, "no model recognised by fake in m/ (it holds notes.txt)"),
        ({"a.fake": "{}", "b.fake": "{}"}, "more than one model: a.fake, b.fake"),
        ({"1/m.fake": "{}", "config.yaml": "streams: x"}, "config.yaml: streams: expected a valid integer, got 'x'"),
        ({"1/m.fake": "{}", "config.pbtxt": "foo: 3"}, "config.pbtxt: 1:1 : Message type"),
        ({"1/m.fake": "{}", "config.pbtxt": "", "config.yaml": ""}, "config.yaml and config.pbtxt are both there"),
        ({"1/m.fake": "{}", "config.yml": ""}, "config.yml is not read; name it config.yaml"),
        (
            {"1/m.fake": "{}", "3/m.fake": "{}", "config.yaml": "version_policy: {specific: [2]}"},
            "no version to serve: the policy is 'specific [2]', there is 1, 3",
        ),
        ({"m.fake": "{}", "config.yaml": "backend: fakee"}, "unknown backend 'fakee'; did you mean 'fake'?"),
        ({"m.fake": "{}", "config.yaml": "filename: n.fake"}, "the configured file 'n.fake' is not in m/"),
    ],
)
def test_a_broken_model_is_a_fault_with_its_reason(
    tmp_path: Path, backends: Backends, files: dict[str, str], reason: str
):
    write_model(tmp_path / "good" / "1")
    (tmp_path / "m").mkdir()
    for name, text in files.items():
        (tmp_path / "m" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "m" / name).write_text(text)
    found = scan([tmp_path], backends)
    assert list(found.models) == ["good"]
    assert found.faults["m"].startswith(reason)


def test_a_root_with_a_configuration_is_a_model_even_if_nothing_is_recognised(tmp_path: Path, backends: Backends):
    (tmp_path / "config.yaml").write_text("device: CPU")
    (tmp_path / "docs").mkdir()
    found = scan([tmp_path], backends)
    assert (list(found.models), list(found.faults)) == ([], [tmp_path.name])


def test_a_configuration_in_tritons_format_is_read(tmp_path: Path, backends: Backends):
    write_model(tmp_path / "m" / "1")
    (tmp_path / "m" / "config.pbtxt").write_text('name: "m" max_batch_size: 8')
    assert scan([tmp_path], backends).models["m"].config.batching.max_batch_size == 8


def test_a_backend_that_cannot_be_imported_does_not_stop_the_others(tmp_path: Path, backend: FakeBackend):
    class Broken:
        @staticmethod
        def load():
            raise ImportError("libbroken.so")

    write_model(tmp_path / "m" / "1")
    backends = Backends(points={"broken": Broken}, made={"fake": backend})  # type: ignore[dict-item]
    assert versions(scan([tmp_path / "m"], backends)) == {"m": [1]}


# -- from a source to the backend ------------------------------------------------------------------------------------


def test_a_configured_file_is_chosen_among_several(tmp_path: Path, backends: Backends):
    write_model(tmp_path / "m" / "1", name="a.fake")
    write_model(tmp_path / "m" / "1", name="b.fake")
    (tmp_path / "m" / "config.yaml").write_text("filename: b.fake")
    source = scan([tmp_path], backends).models["m"]
    assert find_model(source, 1, backends) == ("fake", tmp_path / "m" / "1" / "b.fake")


def test_a_file_of_any_name_is_loaded_by_the_configured_backend(tmp_path: Path, backends: Backends):
    write_model(tmp_path / "m" / "1", name="weights.bin")
    (tmp_path / "m" / "config.yaml").write_text("filename: weights.bin")
    source = scan([tmp_path], backends).models["m"]
    with pytest.raises(ConfigError, match=r"no backend recognises 'weights\.bin' in 1/; set `backend`"):
        find_model(source, 1, backends)
    (tmp_path / "m" / "config.yaml").write_text("filename: weights.bin\nbackend: fake")
    source = scan([tmp_path], backends).models["m"]
    assert find_model(source, 1, backends) == ("fake", tmp_path / "m" / "1" / "weights.bin")


def test_a_version_that_went_away_is_an_error_that_names_it(tmp_path: Path, backends: Backends):
    path = write_model(tmp_path / "m" / "1")
    source = scan([tmp_path], backends).models["m"]
    path.unlink()
    path.parent.rmdir()
    with pytest.raises(ConfigError, match=r"cannot read 1/: No such file or directory"):
        find_model(source, 1, backends)


def test_the_configuration_reaches_the_backend(tmp_path: Path, backends: Backends):
    path = write_model(tmp_path / "m" / "2")
    (tmp_path / "m" / "config.yaml").write_text(
        "{device: GPU.1, performance_hint: latency, precision: f16, instances: 2, streams: 3, threads: 4,"
        " inputs: {a: {shape: [-1, 8]}, b: {name: c}}, backend_options: {x: 1}}"
    )
    [spec] = load_specs(scan([tmp_path], backends).models["m"], 2, path, 6, tmp_path / "cache")
    assert (spec.path, spec.device, spec.performance_hint, spec.precision) == (path, "GPU.1", "latency", "f16")
    assert (spec.instances, spec.streams, spec.threads, spec.cores) == (2, 3, 4, 6)
    assert spec.shapes == {"a": (-1, 8)}
    assert spec.options == {"x": 1}
    assert spec.cache_dir == tmp_path / "cache" / "m" / "2"
    assert not (tmp_path / "cache").exists()


def test_no_cache_directory_means_none(tmp_path: Path, backends: Backends):
    path = write_model(tmp_path / "m")
    assert load_specs(scan([tmp_path], backends).models["m"], 1, path, 1, None)[0].cache_dir is None


# -- validation ------------------------------------------------------------------------------------------------------


def test_validation_describes_a_good_model_in_the_names_that_it_is_served_by(
    tmp_path: Path, backend: FakeBackend, backends: Backends
):
    write_model(tmp_path / "m" / "1", fake_model("FP32", (-1, 1, 8, 8), ("x", "y")))
    (tmp_path / "m" / "config.yaml").write_text("{inputs: {x: {name: image}}, instances: 7}")
    assert validate(tmp_path, None, backends) == [
        Finding("m", 1, None, "fake  image FP32[-1,1,8,8] -> y FP32[-1,1,8,8]")
    ]
    [model] = backend.loaded
    assert (model.spec.cores, model.spec.instances, model.times_closed) == (available_cores(), 1, 1)


def test_validation_asks_for_as_many_instances_as_serving_where_cores_are_chosen(
    tmp_path: Path, backend: FakeBackend, backends: Backends
):
    core = min(os.sched_getaffinity(0))
    write_model(tmp_path / "m" / "1")
    pools = f"[{{cores: '{core}'}}, {{cores: '{core}', instances: 3}}, {{instances: 3}}]"
    (tmp_path / "m" / "config.yaml").write_text(f"pools: {pools}")
    write_model(tmp_path / "n" / "1")
    (tmp_path / "n" / "config.yaml").write_text(f"cores: '{core}'")
    assert [finding.problem for finding in validate(tmp_path, None, backends)] == [None, None]
    assert [model.spec.instances for model in backend.loaded] == [None, 3, 3, None]


def test_validation_finds_what_is_wrong_with_each_version_and_model(
    tmp_path: Path, backend: FakeBackend, backends: Backends
):
    write_model(tmp_path / "m" / "1", {"fail": "the weights are missing"})
    write_model(tmp_path / "m" / "2")
    (tmp_path / "m" / "3").mkdir()
    (tmp_path / "m" / "config.yaml").write_text("version_policy: all")
    (tmp_path / "a").mkdir()
    write_model(tmp_path / "z" / "1")
    (tmp_path / "z" / "config.yaml").write_text("inputs: {inptu: {name: x}}")
    findings = validate(tmp_path, None, backends)
    assert [(finding.model, finding.version) for finding in findings] == [
        ("a", None), ("m", 1), ("m", 2), ("m", 3), ("z", 1),
    ]  # fmt: skip
    a, m1, m2, m3, z = findings
    assert (m1.problem, m1.detail) == ("the weights are missing", "")
    assert m2.problem is None
    assert "no model recognised" in str(a.problem)
    assert "no model recognised" in str(m3.problem)
    assert "did you mean 'input'?" in str(z.problem)
    assert all(model.times_closed == 1 for model in backend.loaded)


def test_validation_of_a_repository_that_is_not_there_is_an_error(tmp_path: Path, backends: Backends):
    with pytest.raises(ConfigError):
        validate(tmp_path / "absent", None, backends)
