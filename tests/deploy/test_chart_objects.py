"""What has to hold of the chart's objects, whatever the values: that they fit together, and that pods are hardened."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy.chart_value_sets import ADMITTED, objects_of
from deploy.helm_render import NAMESPACE, Object
from vintner.config import load_config

LONG_RELEASE = "r" * 53
"""The longest that Helm takes."""
LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
BROUGHT = {
    "ConfigMap": {"small-models", "settings"},
    "PersistentVolumeClaim": {"models", "one", "compiled"},
    "ServiceAccount": {"existing", "default"},
}
"""What the sets name and somebody else makes."""

everywhere = pytest.mark.parametrize("name", ADMITTED)


def of_kind(objects: Sequence[Object], *kinds: str) -> list[Object]:
    return [each for each in objects if each["kind"] in kinds]


def workload(name: str) -> Object:
    (found,) = of_kind(objects_of(name), "Deployment", "StatefulSet")
    return found


def pod_of(name: str) -> Object:
    pod: Object = workload(name)["spec"]["template"]
    return pod


def server_of(name: str) -> Object:
    return next(each for each in pod_of(name)["spec"]["containers"] if each["name"] == "vintner")


def pod_specs(name: str) -> Iterator[Object]:
    yield pod_of(name)["spec"]
    yield from (each["spec"] for each in of_kind(objects_of(name), "Pod"))


def containers(spec: Object) -> list[Object]:
    return [*spec.get("initContainers", []), *spec["containers"]]


def matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return bool(selector) and selector.items() <= labels.items()


def texts(value: Any) -> Iterator[Any]:
    """All that is in an object and is neither a list nor a mapping."""
    if isinstance(value, dict):
        for each in value.values():
            yield from texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from texts(each)
    else:
        yield value


def selectors_of_pods(name: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    for each in objects_of(name):
        spec = each.get("spec", {})
        match each["kind"]:
            case "Service":
                yield "Service", spec["selector"]
            case "NetworkPolicy":
                yield "NetworkPolicy", spec["podSelector"]["matchLabels"]
            case "Deployment" | "StatefulSet" | "PodDisruptionBudget" | "PodMonitor" as kind:
                yield kind, spec["selector"]["matchLabels"]


@everywhere
def test_selectors_match_the_servers_pods_and_no_others(name: str) -> None:
    labels = pod_of(name)["metadata"]["labels"]
    others = [each["metadata"]["labels"] for each in of_kind(objects_of(name), "Pod")]
    for kind, selector in selectors_of_pods(name):
        assert matches(selector, labels), kind
        assert not any(matches(selector, other) for other in others), kind


@everywhere
def test_a_service_monitor_finds_metrics_once(name: str) -> None:
    services = of_kind(objects_of(name), "Service")
    for monitor in of_kind(objects_of(name), "ServiceMonitor"):
        selector = monitor["spec"]["selector"]["matchLabels"]
        found = [each for each in services if matches(selector, each["metadata"]["labels"])]
        (endpoint,) = monitor["spec"]["endpoints"]
        ports = [port["name"] for each in found for port in each["spec"]["ports"]]
        assert ports.count(endpoint["port"]) == 1


def ports_that_are_named(name: str) -> Iterator[Any]:
    """Names and numbers of ports of the server's container that something refers to."""
    for each in objects_of(name):
        spec = each.get("spec", {})
        match each["kind"]:
            case "Service":
                yield from (port["targetPort"] for port in spec["ports"])
            case "NetworkPolicy":
                yield from (port["port"] for rule in spec["ingress"] for port in rule["ports"])
            case "PodMonitor":
                yield from (endpoint["port"] for endpoint in spec["podMetricsEndpoints"])
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        handler = server_of(name)[probe]
        yield handler.get("httpGet", handler.get("grpc"))["port"]
    annotations = pod_of(name)["metadata"]["annotations"]
    if "prometheus.io/port" in annotations:
        yield int(annotations["prometheus.io/port"])


@everywhere
def test_ports_that_are_referred_to_are_the_containers(name: str) -> None:
    ports = server_of(name)["ports"]
    known = {port["name"] for port in ports} | {port["containerPort"] for port in ports}
    assert set(ports_that_are_named(name)) <= known
    assert len({port["containerPort"] for port in ports}) == len(ports) == 3


@everywhere
def test_routes_and_ingresses_lead_to_ports_of_the_service(name: str) -> None:
    services = {each["metadata"]["name"]: each["spec"]["ports"] for each in of_kind(objects_of(name), "Service")}
    for ingress in of_kind(objects_of(name), "Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                assert backend["port"]["name"] in {port["name"] for port in services[backend["name"]]}
    for route in of_kind(objects_of(name), "HTTPRoute", "GRPCRoute"):
        wanted = {"HTTPRoute": "http", "GRPCRoute": "grpc"}[route["kind"]]
        for rule in route["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                named = {port["port"]: port["name"] for port in services[backend["name"]]}
                assert named[backend["port"]] == wanted


@everywhere
def test_the_server_listens_where_the_container_says(name: str, tmp_path: Path) -> None:
    """By the server's own reading of its arguments and of the file that the ConfigMap holds."""
    server = server_of(name)
    (mount,) = (each for each in server["volumeMounts"] if each["name"] == "config")
    (volume,) = (each for each in pod_of(name)["spec"]["volumes"] if each["name"] == "config")
    (config,) = (
        each
        for each in of_kind(objects_of(name), "ConfigMap")
        if each["metadata"]["name"] == volume["configMap"]["name"]
    )
    for file, content in config["data"].items():
        (tmp_path / file).write_text(content, encoding="utf-8")
    arguments = [argument.replace(mount["mountPath"], str(tmp_path)) for argument in server["args"][1:]]
    read = load_config(arguments, {})
    ports = {port["name"]: port["containerPort"] for port in server["ports"]}
    assert {"http": read.http_port, "grpc": read.grpc_port, "metrics": read.metrics_port} == ports
    for option, given in ADMITTED[name].get("server", {}).get("config", {}).items():
        assert getattr(read, option) == getattr(load_config([], {f"VINTNER_{option.upper()}": as_text(given)}), option)


def as_text(given: Any) -> str:
    """Of an option, as its variable would have it; lists here are of names and resources, which commas part."""
    if isinstance(given, bool):
        return str(given).lower()
    return ",".join(given) if isinstance(given, list) else str(given)


@everywhere
def test_volumes_that_are_mounted_exist_and_others_do_not(name: str) -> None:
    templates = workload(name)["spec"].get("volumeClaimTemplates", [])
    for spec in pod_specs(name):
        claimed = {each["metadata"]["name"] for each in templates} if spec is pod_of(name)["spec"] else set()
        given = {each["name"] for each in spec.get("volumes", [])}
        mounted = {mount["name"] for each in containers(spec) for mount in each.get("volumeMounts", [])}
        assert given & claimed == set()
        assert mounted == given | claimed


@everywhere
def test_no_container_mounts_two_volumes_in_one_place(name: str) -> None:
    for spec in pod_specs(name):
        for container in containers(spec):
            places = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
            assert len(set(places)) == len(places)


def referred(spec: Object) -> Iterator[tuple[str, str]]:
    """Kind and name of what a pod needs."""
    yield "ServiceAccount", spec["serviceAccountName"]
    for volume in spec.get("volumes", []):
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
    for container in containers(spec):
        for source in container.get("envFrom", []):
            if "configMapRef" in source:
                yield "ConfigMap", source["configMapRef"]["name"]


@everywhere
def test_what_pods_refer_to_is_rendered_or_brought_along(name: str) -> None:
    for spec in pod_specs(name):
        for kind, wanted in referred(spec):
            rendered = {each["metadata"]["name"] for each in of_kind(objects_of(name), kind)}
            assert wanted in rendered | BROUGHT[kind], kind


@everywhere
def test_autoscalers_alone_say_how_many_pods_there_are(name: str) -> None:
    scalers = of_kind(objects_of(name), "HorizontalPodAutoscaler", "ScaledObject")
    target = workload(name)
    for scaler in scalers:
        reference = scaler["spec"]["scaleTargetRef"]
        assert (reference["kind"], reference["name"]) == (target["kind"], target["metadata"]["name"])
    assert ("replicas" in target["spec"]) == (not scalers)


@everywhere
def test_a_stateful_set_has_its_headless_service(name: str) -> None:
    for each in of_kind(objects_of(name), "StatefulSet"):
        governing = {
            service["metadata"]["name"]
            for service in of_kind(objects_of(name), "Service")
            if service["spec"].get("clusterIP") == "None"
        }
        assert each["spec"]["serviceName"] in governing


@everywhere
def test_names_and_labels_are_short_enough_of_the_longest_release(name: str) -> None:
    objects = objects_of(name, LONG_RELEASE)
    for each in objects:
        metadata = each["metadata"]
        assert len(metadata["name"]) <= 63
        assert NAME.fullmatch(metadata["name"]), metadata["name"]
        for label in metadata.get("labels", {}).values():
            assert len(label) <= 63
            assert LABEL.fullmatch(label), label
    identities = {(each["kind"], each["metadata"]["name"]) for each in objects}
    assert len(identities) == len(objects)


@everywhere
def test_labels_that_kubernetes_adds_to_pods_are_short_enough(name: str) -> None:
    """controller-revision-hash is the name, a dash and ten characters; names of ReplicaSets are no labels."""
    for each in of_kind(objects_of(name, LONG_RELEASE), "StatefulSet"):
        assert len(each["metadata"]["name"]) + 11 <= 63


@everywhere
def test_containers_are_hardened(name: str) -> None:
    for spec in pod_specs(name):
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"]["type"] in {"RuntimeDefault", "Localhost"}
        assert spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        for container in containers(spec):
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True, container["name"]
            assert context["allowPrivilegeEscalation"] is False, container["name"]
            assert context["capabilities"] == {"drop": ["ALL"]}, container["name"]
            assert "privileged" not in context, container["name"]


@everywhere
def test_containers_have_a_limit_of_memory(name: str) -> None:
    for spec in pod_specs(name):
        limits = {each["name"]: each.get("resources", {}).get("limits", {}) for each in containers(spec)}
        assert [container for container, limit in limits.items() if "memory" not in limit] == []


@everywhere
def test_directories_that_can_be_written_are_bounded(name: str) -> None:
    for spec in pod_specs(name):
        for volume in spec.get("volumes", []):
            assert "sizeLimit" in volume.get("emptyDir", {"sizeLimit": ""}), volume["name"]


@everywhere
def test_objects_are_in_the_releases_namespace(name: str) -> None:
    assert {each["metadata"]["namespace"] for each in objects_of(name)} == {NAMESPACE}


@everywhere
def test_objects_have_no_holes(name: str) -> None:
    """Neither null, which a template writes where it finds nothing, nor what Go writes for it."""
    found = [text for each in objects_of(name) for text in texts(each)]
    assert [text for text in found if text is None or "<no value>" in str(text) or "<nil>" in str(text)] == []


@everywhere
def test_the_pods_annotation_tells_of_changed_options(name: str) -> None:
    assert re.fullmatch("[0-9a-f]{64}", pod_of(name)["metadata"]["annotations"]["checksum/config"])


def test_labels_that_are_given_do_not_replace_those_that_select() -> None:
    name = "labels that are the chart's"
    labels, plain = pod_of(name)["metadata"]["labels"], pod_of("defaults")["metadata"]["labels"]
    assert plain.items() <= labels.items()
    managers = {each["metadata"]["labels"].get("app.kubernetes.io/managed-by", "Helm") for each in objects_of(name)}
    assert managers == {"Helm"}


def test_the_examples_of_the_charts_readme_render() -> None:
    readme = (Path(__file__).parents[2] / "helm" / "vintner" / "README.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```yaml\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    assert [yaml.safe_load(example) for example in examples] == [ADMITTED["the example of the README"]]
