"""What values make of the pod, its workload and Services, as objects; test_chart_pod.py has what runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy.releases import WORKLOADS, refused, released
from vintner.config import describe_options, load_config

DIGEST = "sha256:" + "0f" * 32


# -- options of the server ------------------------------------------------------------------------------------


def test_options_reach_the_server_as_they_are_written(tmp_path: Path) -> None:
    config = {
        "max_concurrent_requests": 1048576,
        "max_request_bytes": 4294967296,
        "request_timeout_seconds": 0.25,
        "default_model_name": "1.10",
        "http_docs": False,
        "model_control": "explicit",
        "load_model": ["digits", "1.10"],
    }
    file = tmp_path / "config.yaml"
    file.write_text(released(server={"config": config}).one("ConfigMap")["data"]["config.yaml"])
    read = load_config([f"--config={file}"], {})
    assert {key: getattr(read, key) for key in config} == {
        **config,
        "load_model": ("digits", "1.10"),
    }


def test_what_the_chart_sets_is_refused_elsewhere_by_each_of_its_names() -> None:
    """Else probes, ports or the time for the end would no longer be those of the server."""
    rendered = released(modelRepository={"modelName": "one"}).config
    assert len(rendered) == 10
    for option in (each for each in describe_options() if each.name in {*rendered, "config"}):
        message = refused(server={"config": {option.name: 1}})
        assert f"/server/config/{option.name}'" in message
        assert "says it" in message
        for flag in option.flags:
            assert f"the chart sets {flag}; set" in refused(server={"extraArgs": [f"{flag}=1"]})
            assert f"the chart sets {flag}; set" in refused(server={"extraArgs": ["--ovms-metrics", flag, "1"]})
        assert f"the chart sets {option.variable}; set" in refused(env=[{"name": option.variable, "value": "1"}])


@pytest.mark.parametrize("group", ["server", "service"])
def test_each_port_is_of_one_use(group: str) -> None:
    message = f"{group}.ports: expected a port of its own for each of http, grpc and metrics"
    assert message in refused(**{group: {"ports": {"http": 8001}}})


def test_a_changed_option_rolls_the_pods_and_a_changed_scale_does_not() -> None:
    def checksum(**values: Any) -> str:
        return released(**values).template["metadata"]["annotations"]["checksum/config"]

    assert checksum() == checksum(replicas=3) == checksum(commonLabels={"team": "red"})
    others = [{"config": {"http_docs": False}}, {"drainSeconds": 11}, {"ports": {"http": 9000}}, {"logLevel": "debug"}]
    assert len({checksum(), *(checksum(server=server) for server in others)}) == 1 + len(others)


# -- the end --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("drain", "exit_timeout"), [(10, 30), (0, 0), (0.5, 600), (3600, 1.5)])
def test_a_pod_has_more_time_than_its_server_may_take(drain: float, exit_timeout: float) -> None:
    release = released(server={"drainSeconds": drain, "exitTimeoutSeconds": exit_timeout})
    config = release.config
    assert (config["drain_seconds"], config["exit_timeout_seconds"]) == (drain, exit_timeout)
    assert 10 <= release.pod["terminationGracePeriodSeconds"] - drain - exit_timeout < 12


def test_a_shorter_time_is_refused_and_a_longer_one_taken() -> None:
    assert "expected more than server.drainSeconds and server.exitTimeoutSeconds, 40 together, got 40" in refused(
        terminationGracePeriodSeconds=40
    )
    assert released(terminationGracePeriodSeconds=41).pod["terminationGracePeriodSeconds"] == 41


# -- the workload and its Services ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WORKLOADS)
def test_only_pods_of_the_server_are_selected_and_services_name_their_ports(kind: str) -> None:
    release = released(kind=kind, commonLabels={"app.kubernetes.io/name": "other", "team": "red"}, podLabels={"a": "b"})
    labels = release.template["metadata"]["labels"]
    services = [each for each in release.objects if each["kind"] == "Service"]
    assert len(services) == (2 if kind == "StatefulSet" else 1)
    selectors = [release.workload["spec"]["selector"]["matchLabels"], *(each["spec"]["selector"] for each in services)]
    constraints = release.pod["topologySpreadConstraints"]
    selectors += [each["labelSelector"]["matchLabels"] for each in constraints]
    assert len(constraints) == 2
    test_labels = release.one("Pod")["metadata"]["labels"]
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert not selector.items() <= test_labels.items()
    assert (labels["team"], labels["a"]) == ("red", "b")
    for service in services:
        for port in service["spec"]["ports"]:
            assert port["targetPort"] == port["name"]
            assert release.container_port(port["targetPort"]) == release.config[f"{port['name']}_port"]
            assert port["appProtocol"] == ("kubernetes.io/h2c" if port["name"] == "grpc" else "http")


def test_replicas_find_one_another_by_the_headless_service() -> None:
    release = released(kind="StatefulSet")
    headless = release.one("Service", release.workload["spec"]["serviceName"])
    assert headless["spec"]["clusterIP"] == "None"
    assert headless["spec"]["publishNotReadyAddresses"] is False
    assert "metrics" not in [each["name"] for each in headless["spec"]["ports"]]


@pytest.mark.parametrize("kind", WORKLOADS)
def test_replicas_are_left_to_what_scales(kind: str) -> None:
    assert released(kind=kind, replicas=0).workload["spec"]["replicas"] == 0
    assert "replicas" not in released(kind=kind, autoscaling={"enabled": True}).workload["spec"]
    keda = {"enabled": True, "prometheusAddress": "http://prometheus:9090"}
    assert "replicas" not in released(kind=kind, keda=keda).workload["spec"]


def test_a_rollout_waits_for_as_long_as_a_pod_may_take_to_start() -> None:
    assert released().workload["spec"]["progressDeadlineSeconds"] == 600 + 5 * 120
    slow = released(probes={"startup": {"periodSeconds": 10, "failureThreshold": 720}})
    assert slow.workload["spec"]["progressDeadlineSeconds"] == 600 + 10 * 720
    assert released(probes={"startup": None}).workload["spec"]["progressDeadlineSeconds"] == 600


def test_ports_of_nodes_are_those_of_services_that_have_some() -> None:
    ports = {"http": 30080}
    values = {"type": "NodePort", "nodePorts": ports, "externalTrafficPolicy": "Local"}
    service = released(service=values).one("Service")
    assert {each["name"]: each.get("nodePort") for each in service["spec"]["ports"]} == {
        "http": 30080,
        "grpc": None,
        "metrics": None,
    }
    assert service["spec"]["externalTrafficPolicy"] == "Local"
    ranges = {"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0/8"]}
    assert released(service=ranges).one("Service")["spec"]["loadBalancerSourceRanges"] == ["10.0.0.0/8"]


# -- what a pod may and has -----------------------------------------------------------------------------------


def test_devices_are_limits_and_their_groups_the_pods() -> None:
    devices: dict[str, Any] = {
        "gpu": {"count": 2, "resource": "gpu.intel.com/xe"},
        "npu": {"count": 1},
        "supplementalGroups": [44, 109],
    }
    release = released(devices=devices, podSecurityContext={"supplementalGroups": [44]})
    limits = {"memory": "4Gi", "gpu.intel.com/xe": 2, "npu.intel.com/accel": 1}
    assert release.server["resources"]["limits"] == limits
    assert release.pod["securityContext"]["supplementalGroups"] == [44, 109]
    assert released().server["resources"]["limits"] == {"memory": "4Gi"}
    assert released(devices=devices, resources=None).server["resources"] == {
        "limits": {key: limits[key] for key in limits if key != "memory"}
    }


def test_the_user_may_be_left_to_the_cluster() -> None:
    """OpenShift refuses a pod that names a user or a group outside of its namespace's range."""
    release = released(podSecurityContext={"fsGroup": None}, securityContext={"runAsUser": None})
    assert not {"fsGroup", "runAsUser", "runAsGroup"} & release.pod["securityContext"].keys()
    assert "runAsUser" not in release.server["securityContext"]
    assert release.server["securityContext"]["readOnlyRootFilesystem"] is True
    without = released(podSecurityContext=None, securityContext=None)
    assert "securityContext" not in without.pod
    assert "securityContext" not in without.server


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({}, "vintner:0.1.0"),
        ({"repository": "registry.example.com/vintner", "tag": "1"}, "registry.example.com/vintner:1"),
        ({"tag": "1", "digest": DIGEST}, f"vintner@{DIGEST}"),
    ],
)
def test_the_image_is_named_by_tag_or_digest(image: dict[str, str], expected: str) -> None:
    release = released(image={**image, "pullSecrets": [{"name": "registry"}]})
    [check] = release.one("Pod")["spec"]["containers"]
    assert release.server["image"] == check["image"] == expected
    assert release.pod["imagePullSecrets"] == release.one("Pod")["spec"]["imagePullSecrets"] == [{"name": "registry"}]


def test_what_is_given_for_the_pod_is_in_it() -> None:
    given: dict[str, Any] = {
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"operator": "Exists"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}},
        "topologySpreadConstraints": [{"topologyKey": "rack", "maxSkew": 2, "whenUnsatisfiable": "DoNotSchedule"}],
        "priorityClassName": "high",
        "runtimeClassName": "kata",
    }
    extra = {
        "env": [{"name": "A", "value": "1"}],
        "envFrom": [{"secretRef": {"name": "s"}}],
        "extraVolumes": [{"name": "ca", "secret": {"secretName": "ca"}}],
        "extraVolumeMounts": [{"name": "ca", "mountPath": "/ca"}],
        "sidecars": [{"name": "proxy", "image": "proxy:1"}],
        "podAnnotations": {"note": "x"},
        "probes": {"liveness": None},
    }
    release = released(**given, **extra)
    assert {key: release.pod[key] for key in given} == given
    assert (release.server["env"], release.server["envFrom"]) == (extra["env"], extra["envFrom"])
    assert release.volume("ca") == {"secret": {"secretName": "ca"}}
    assert release.mount("ca") == {"name": "ca", "mountPath": "/ca"}
    assert release.pod["containers"][1:] == extra["sidecars"]
    assert release.template["metadata"]["annotations"]["note"] == "x"
    assert "livenessProbe" not in release.server


def test_the_token_of_the_account_is_not_mounted() -> None:
    release = released(serviceAccount={"annotations": {"role": "reader"}})
    account = release.one("ServiceAccount")
    assert account["metadata"]["annotations"] == {"role": "reader"}
    assert release.pod["serviceAccountName"] == account["metadata"]["name"]
    assert release.pod["automountServiceAccountToken"] is account["automountServiceAccountToken"] is False
    assert released(serviceAccount={"create": False, "name": "own"}).pod["serviceAccountName"] == "own"
    assert released(serviceAccount={"create": False}).pod["serviceAccountName"] == "default"


def test_further_objects_are_templates() -> None:
    text = "apiVersion: v1\nkind: Secret\nmetadata: {name: as-text}\nstringData: {a: b}\n"
    as_object = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": '{{ include "vintner.fullname" . }}-x'}}
    release = released(extraObjects=[text, as_object])
    assert release.one("Secret", "as-text") == yaml.safe_load(text)
    assert release.one("Secret", "-x")["metadata"]["name"] == "cellar-vintner-x"
