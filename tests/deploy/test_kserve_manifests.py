"""The files in deploy/kserve: KServe and Kubernetes know every field, and KServe's webhook would let them in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import kserve_schema
import kubernetes_validate
import pytest
import yaml
from kserve_pods import DEPLOY, documents, filled, rendered
from vintner import __version__
from vintner.config import load_config

WAIT = 60.0
THEIRS = {"openvino": 2, "onnx": 2, "tensorflow": 3}
"""The highest priorities of KServe's own runtimes, by format."""
RUNTIMES = {each["metadata"]["name"]: each for path in DEPLOY.glob("runtime*.yaml") for each in documents(path)}
EXAMPLES = {path.name: documents(path) for path in sorted((DEPLOY / "examples").glob("*.yaml"))}
EVERYTHING = [*RUNTIMES.values(), *(each for found in EXAMPLES.values() for each in found)]

Complaints = Callable[[Any], list[str]]


@pytest.fixture(scope="module")
def complaints() -> Iterator[Complaints]:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        yield lambda document: pool.submit(kserve_schema.complaints, document).result(WAIT)


def container_of(runtime: Any) -> Any:
    (container,) = runtime["spec"]["containers"]
    return container


@pytest.mark.parametrize("document", EVERYTHING, ids=lambda each: f"{each['kind']}-{each['metadata']['name']}")
def test_kserve_knows_every_field(document: Any, complaints: Complaints) -> None:
    assert complaints(document) == []


@pytest.mark.parametrize(
    ("place", "key", "value", "expected"),
    [
        (("supportedModelFormats", 0), "priority", "10", "0.priority: expected int, got '10'"),
        (("containers", 0), "readinesProbe", {}, "containers.0.readinesProbe: unknown to V1Container"),
        (("containers", 0), "name", None, "containers.0.name: expected str, got None"),
        (("volumes", 0), "emptyDir", [], "0.emptyDir: expected a dict, got []"),
        (("containers", 0), "name", ..., "containers.0: 1 validation error for V1Container\nname\n  Field required"),
    ],
)
def test_the_schema_complains_of_what_is_unknown_wrong_or_missing(
    place: tuple[str, int], key: str, value: object, expected: str, complaints: Complaints
) -> None:
    document = yaml.safe_load((DEPLOY / "runtime.yaml").read_text())
    changed = document["spec"][place[0]][place[1]]
    changed[key] = value
    if value is ...:
        del changed[key]
    assert expected in "\n".join(complaints(document))


@pytest.mark.parametrize("version", ["1.29", "1.33", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("name", RUNTIMES)
def test_kubernetes_takes_the_pod(name: str, version: str) -> None:
    spec = RUNTIMES[name]["spec"]
    pod = {"containers": spec["containers"], "volumes": spec["volumes"]}
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": pod}
    kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("name", RUNTIMES)
def test_the_container_is_kserves_and_hardened(name: str) -> None:
    container = container_of(RUNTIMES[name])
    assert container["name"] == "kserve-container"
    assert container["securityContext"] == {
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert {each["mountPath"]: each["name"] for each in container["volumeMounts"]} == {"/cache": "cache", "/tmp": "tmp"}
    assert {each["name"] for each in RUNTIMES[name]["spec"]["volumes"] if each["emptyDir"]} == {"cache", "tmp"}


@pytest.mark.parametrize("name", RUNTIMES)
def test_ports_probes_and_arguments_agree(name: str) -> None:
    container = container_of(RUNTIMES[name])
    config = load_config(rendered(container, {"name": "s"}), {})
    listening = {"http": config.http_port, "http1": config.http_port, "grpc": config.grpc_port, "h2c": config.grpc_port}
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert ports == {each: listening[each] for each in ports}
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        (probe,) = (container[kind][each] for each in ("httpGet", "grpc") if each in container[kind])
        assert probe["port"] in {*ports, *ports.values()}
    assert str(config.http_port) == RUNTIMES[name]["spec"]["annotations"]["prometheus.kserve.io/port"]
    assert (config.model_repository, config.cache_dir) == ((Path("/mnt/models"),), Path("/cache"))


def test_standard_mode_has_http_first_and_knative_one_port_by_its_name() -> None:
    names = {name: [port["name"] for port in container_of(each)["ports"]] for name, each in RUNTIMES.items()}
    assert names == {
        "vintner": ["http", "grpc"],
        "vintner-genai": ["http", "grpc"],
        "vintner-multi-model": ["http", "grpc"],
        "vintner-knative-http": ["http1"],
        "vintner-knative-grpc": ["h2c"],
    }


@pytest.mark.parametrize("name", ["vintner", "vintner-genai", "vintner-multi-model"])
def test_the_end_fits_into_the_grace_period(name: str) -> None:
    config = load_config(rendered(container_of(RUNTIMES[name]), {"name": "s"}), {})
    assert config.drain_seconds >= 5
    assert config.drain_seconds + config.exit_timeout_seconds < 30


def selected(runtime: Any) -> dict[tuple[str, str], int]:
    """The formats and versions for which KServe takes a runtime by itself, with their priorities."""
    formats = runtime["spec"]["supportedModelFormats"]
    return {(each["name"], each["version"]): each["priority"] for each in formats if each.get("autoSelect")}


@pytest.mark.parametrize("pair", list(combinations(RUNTIMES, 2)))
def test_the_webhook_sees_no_priority_twice(pair: tuple[str, str]) -> None:
    """It denies two runtimes of the same kind a format with the same priority, if they share a protocol."""
    one, other = (RUNTIMES[name] for name in pair)
    if one["spec"].get("multiModel", False) != other["spec"].get("multiModel", False):
        return
    if set(one["spec"]["protocolVersions"]) & set(other["spec"]["protocolVersions"]):
        assert not selected(one).items() & selected(other).items()


def test_what_is_selected_goes_before_kserves_own_and_never_lands_on_a_knative_twin() -> None:
    for name, runtime in RUNTIMES.items():
        priorities = {(each["name"], each.get("priority")) for each in runtime["spec"]["supportedModelFormats"]}
        assert bool(selected(runtime)) == ("knative" not in name)
        assert all(priority > THEIRS.get(format_name, 2) for (format_name, _), priority in selected(runtime).items())
        assert len(priorities) == len({format_name for format_name, _ in priorities})  # or the webhook denies it
        assert "v1" in runtime["spec"]["protocolVersions"] or name == "vintner-knative-grpc"


def services() -> list[tuple[str, Any]]:
    return [
        (f"{file}", each) for file, found in EXAMPLES.items() for each in found if each["kind"] == "InferenceService"
    ]


@pytest.mark.parametrize(("file", "service"), services(), ids=[file for file, _ in services()])
def test_each_example_has_a_runtime_that_takes_it(file: str, service: Any) -> None:
    predictor = service["spec"]["predictor"]["model"]
    knative = service["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Knative"
    several = "storageUri" not in predictor
    candidates = [RUNTIMES[predictor["runtime"]]] if "runtime" in predictor else list(RUNTIMES.values())
    found = []
    for runtime in candidates:
        spec = runtime["spec"]
        formats = {
            (each["name"], each["version"])
            for each in spec["supportedModelFormats"]
            if each.get("autoSelect") or "runtime" in predictor
        }
        wanted = predictor["modelFormat"]
        version = wanted.get("version")
        known = any(name == wanted["name"] and version in (None, number) for name, number in formats)
        if known and predictor["protocolVersion"] in spec["protocolVersions"]:
            found.append(runtime)
    (runtime,) = [each for each in found if each["spec"].get("multiModel", False) == several]
    assert ("knative" in runtime["metadata"]["name"]) == knative
    container = container_of(runtime)
    config = load_config(rendered(container, service["metadata"], predictor.get("args", ())), {})
    grace = service["spec"]["predictor"].get("terminationGracePeriodSeconds", 30)
    assert knative or config.drain_seconds + config.exit_timeout_seconds < grace


def test_a_trained_models_service_is_there_and_its_format_known() -> None:
    (service, trained) = EXAMPLES["multi-model.yaml"]
    assert trained["spec"]["inferenceService"] == service["metadata"]["name"]
    formats = RUNTIMES["vintner-multi-model"]["spec"]["supportedModelFormats"]
    assert trained["spec"]["model"]["framework"] in {each["name"] for each in formats}


def test_kustomize_has_every_runtime_and_names_every_image() -> None:
    found = yaml.safe_load((DEPLOY / "kustomization.yaml").read_text())
    assert sorted(found["resources"]) == sorted(path.name for path in DEPLOY.glob("runtime*.yaml"))
    images = {container_of(each)["image"] for each in RUNTIMES.values()}
    assert {each["name"] for each in found["images"]} == images
    assert {each["newTag"] for each in found["images"]} == {__version__}


@pytest.mark.parametrize(
    ("template", "missing", "expected"),
    [
        ("--x={{.Name}}-{{ .Namespace }}", "", "--x=digits-team"),
        ("{{.Labels.a}}{{.Annotations.b}}", "", "1"),
        ("--x={{.Labels.b}}", "<no value>", "--x=<no value>"),
    ],
)
def test_templates_are_filled_as_go_does(template: str, missing: str, expected: str) -> None:
    metadata = {"name": "digits", "namespace": "team", "labels": {"a": "1"}}
    assert filled(template, metadata, missing) == expected
