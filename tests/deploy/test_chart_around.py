"""What the chart puts around the pods: who may reach them, by which routes, and how many may be missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from deploy.helm_render import NAMESPACE, RELEASE, ChartRefused, Object, Values, render_helm3, render_helm4
from deploy.kubernetes_schemas import VERSIONS, problems
from deploy.rendered_pod import Release
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from vintner.pb import grpc_service_pb2

GATEWAY = [{"name": "gateway", "namespace": "gateways", "sectionName": "https"}]
ADDRESS = "http://prometheus.monitoring:9090"
HOSTS = [{"host": "a.example.com"}]
ENABLED: dict[tuple[str, str], dict[str, Any]] = {
    ("HorizontalPodAutoscaler", ""): {"autoscaling": {"enabled": True, "queueTime": {"enabled": True}}},
    ("ScaledObject", ""): {"keda": {"enabled": True, "prometheusAddress": ADDRESS}},
    ("PodDisruptionBudget", ""): {"podDisruptionBudget": {"enabled": True}},
    ("NetworkPolicy", ""): {"networkPolicy": {"enabled": True}},
    ("ServiceMonitor", ""): {"metrics": {"serviceMonitor": {"enabled": True}}},
    ("PodMonitor", ""): {"metrics": {"podMonitor": {"enabled": True}}},
    ("ConfigMap", "-dashboard"): {"metrics": {"dashboard": {"enabled": True}}},
    ("Ingress", ""): {"ingress": {"enabled": True, "hosts": [{"host": "models.example.com"}]}},
    ("Ingress", "-grpc"): {"ingress": {"grpc": {"enabled": True, "hosts": [{"host": "grpc.example.com"}]}}},
    ("HTTPRoute", ""): {"httpRoute": {"enabled": True, "parentRefs": GATEWAY, "timeouts": {"request": "0s"}}},
    ("GRPCRoute", ""): {"grpcRoute": {"enabled": True, "parentRefs": GATEWAY, "hostnames": ["grpc.example.com"]}},
}
"""Values with which an object is there, and no other that is not there by default."""

RICH: Values = {
    "commonLabels": {"team": "cellar"},
    "commonAnnotations": {"example.com/owner": "cellar"},
    "podDisruptionBudget": {"enabled": True, "minAvailable": "50%", "maxUnavailable": None},
    "networkPolicy": {
        "enabled": True,
        "allowFrom": [{"namespaceSelector": {"matchLabels": {"name": "clients"}}}],
        "allowMetricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
        "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 443, "protocol": "TCP"}]}],
    },
    "metrics": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboard": {"enabled": True, "annotations": {"grafana_folder": "models"}},
    },
    "ingress": {
        "enabled": True,
        "className": "nginx",
        "hosts": [{"host": "models.example.com", "paths": [{"path": "/v2", "pathType": "Prefix"}]}],
        "tls": [{"hosts": ["models.example.com"], "secretName": "models-tls"}],
        "grpc": {
            "enabled": True,
            "annotations": {"nginx.ingress.kubernetes.io/backend-protocol": "GRPC"},
            "hosts": [{"host": "grpc.example.com"}],
            "tls": [{"hosts": ["grpc.example.com"], "secretName": "grpc-tls"}],
        },
    },
    "httpRoute": {"enabled": True, "parentRefs": GATEWAY, "hostnames": ["models.example.com"]},
    "grpcRoute": {"enabled": True, "parentRefs": GATEWAY, "hostnames": ["grpc.example.com"]},
    "autoscaling": {
        "enabled": True,
        "queueTime": {"enabled": True},
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 600}},
    },
}
"""All that goes together, with what each can be given."""


def rendered(values: Values | None = None, release: str = RELEASE) -> Release:
    return Release(render_helm4(values, release=release))


def identities(objects: list[Object]) -> set[tuple[str, str]]:
    return {(each["kind"], each["metadata"]["name"]) for each in objects}


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return bool(selector) and selector.items() <= labels.items()


@pytest.mark.parametrize(("kind", "suffix"), ENABLED, ids=lambda part: part or "main")
def test_an_object_is_there_when_it_is_enabled_and_else_not(kind: str, suffix: str) -> None:
    more = identities(render_helm4(ENABLED[kind, suffix])) - identities(render_helm4())
    assert more == {(kind, f"{RELEASE}-vintner{suffix}")}


@pytest.mark.parametrize("version", VERSIONS)
def test_all_objects_are_valid(version: str) -> None:
    sets = [*ENABLED.values(), RICH]
    assert [problem for values in sets for each in render_helm4(values) for problem in problems(each, version)] == []


def test_a_field_that_a_foreign_kind_does_not_have_is_found() -> None:
    monitor = rendered(ENABLED["ServiceMonitor", ""]).one("ServiceMonitor")
    monitor["spec"]["endpoints"][0]["scrapeTimeOut"] = "10s"
    assert "scrapeTimeOut" in "".join(problems(monitor, VERSIONS[0]))


def test_helm_3_renders_the_same() -> None:
    def by_name(objects: list[Object]) -> dict[tuple[str, str], Object]:
        return {(each["kind"], each["metadata"]["name"]): each for each in objects}

    assert by_name(render_helm3(RICH)) == by_name(render_helm4(RICH))


def test_the_labels_and_annotations_of_all_objects_are_theirs_too() -> None:
    objects = render_helm4(RICH)
    assert len(objects) == 10 + len(render_helm4())
    for each in objects:
        assert each["metadata"]["labels"]["team"] == "cellar", each["kind"]
        assert each["metadata"]["annotations"]["example.com/owner"] == "cellar", each["kind"]
        assert each["metadata"]["namespace"] == NAMESPACE, each["kind"]


@pytest.mark.parametrize(
    ("kind", "key"), [("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector"), ("PodMonitor", "selector")]
)
def test_selectors_mean_the_pods_of_this_release_only(kind: str, key: str) -> None:
    selector = rendered(ENABLED[kind, ""]).one(kind)["spec"][key]["matchLabels"]
    assert selects(selector, rendered().template["metadata"]["labels"])
    assert not selects(selector, rendered().one("Pod")["metadata"]["labels"]), "the pod of `helm test`"
    assert not selects(selector, rendered(release="other").template["metadata"]["labels"])


def test_the_service_monitor_finds_each_pod_once() -> None:
    release = rendered({"service": {"headless": {"enabled": True}}, **ENABLED["ServiceMonitor", ""]})
    spec = release.one("ServiceMonitor")["spec"]
    services = [each for each in release.objects if each["kind"] == "Service"]
    found = [each for each in services if selects(spec["selector"]["matchLabels"], each["metadata"]["labels"])]
    ports = [port["name"] for each in found for port in each["spec"]["ports"]]
    assert ports.count(spec["endpoints"][0]["port"]) == 1
    assert not any(
        selects(spec["selector"]["matchLabels"], each["metadata"]["labels"])
        for each in rendered(release="other").objects
        if each["kind"] == "Service"
    )


def backend_of(release: Release, kind: str, suffix: str) -> tuple[str, int | str]:
    rule = release.one(kind, suffix)["spec"]["rules"][0]
    if kind == "Ingress":
        service = rule["http"]["paths"][0]["backend"]["service"]
        return service["name"], service["port"]["name"]
    return rule["backendRefs"][0]["name"], rule["backendRefs"][0]["port"]


@pytest.mark.parametrize(
    ("kind", "suffix", "port"),
    [
        ("Ingress", "", "http"),
        ("Ingress", "-grpc", "grpc"),
        ("HTTPRoute", "", "http"),
        ("GRPCRoute", "", "grpc"),
    ],
)
def test_routes_lead_to_a_port_of_the_service_and_of_the_server(kind: str, suffix: str, port: str) -> None:
    release = rendered({**RICH, "service": {"ports": {"http": 8080, "grpc": 9000}}})
    name, given = backend_of(release, kind, suffix)
    service = release.one("Service")
    assert service["metadata"]["name"] == name
    [target] = [each["targetPort"] for each in service["spec"]["ports"] if given in (each["name"], each["port"])]
    assert release.container_port(target) == release.config[f"{port}_port"]


def test_the_grpc_route_names_services_that_the_server_has() -> None:
    [rule] = rendered(ENABLED["GRPCRoute", ""]).one("GRPCRoute")["spec"]["rules"]
    known = {
        service.full_name
        for module in (grpc_service_pb2, health_pb2, reflection_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
    }
    named = [match["method"]["service"] for match in rule["matches"]]
    assert "inference.GRPCInferenceService" in named
    assert known >= set(named)


def test_ports_of_the_network_policy_are_the_servers() -> None:
    release = rendered(ENABLED["NetworkPolicy", ""])
    clients, scrapers = release.one("NetworkPolicy")["spec"]["ingress"]
    assert [each["port"] for each in clients["ports"]] == ["http", "grpc"]
    assert [each["port"] for each in scrapers["ports"]] == ["metrics"]
    for rule in (clients, scrapers):
        assert "from" not in rule, "nobody is kept out unless somebody is named"
        assert all(release.container_port(each["port"]) for each in rule["ports"])


def test_the_network_policy_lets_in_those_named_and_the_pod_of_helm_test() -> None:
    release = rendered(RICH)
    clients, scrapers = release.one("NetworkPolicy")["spec"]["ingress"]
    named, tester = clients["from"]
    assert [named] == RICH["networkPolicy"]["allowFrom"]
    assert selects(tester["podSelector"]["matchLabels"], release.one("Pod")["metadata"]["labels"])
    assert scrapers["from"] == [*RICH["networkPolicy"]["allowMetricsFrom"], tester], "it asks for metrics, too"


def test_the_network_policy_lets_out_to_dns_and_where_it_is_told() -> None:
    dns = {"ports": [{"port": port, "protocol": protocol} for port in (53, 5353) for protocol in ("UDP", "TCP")]}
    policy = rendered(ENABLED["NetworkPolicy", ""]).one("NetworkPolicy")["spec"]
    assert (policy["policyTypes"], policy["egress"]) == (["Ingress", "Egress"], [dns])
    assert rendered(RICH).one("NetworkPolicy")["spec"]["egress"] == [dns, *RICH["networkPolicy"]["egress"]]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"maxUnavailable": 1}),
        ({"maxUnavailable": "25%"}, {"maxUnavailable": "25%"}),
        ({"minAvailable": 2}, {"minAvailable": 2}),
        ({"minAvailable": 0}, {"minAvailable": 0}),
    ],
)
def test_a_budget_has_the_bound_that_is_given(given: dict[str, Any], expected: dict[str, Any]) -> None:
    spec = rendered({"podDisruptionBudget": {"enabled": True, **given}}).one("PodDisruptionBudget")["spec"]
    assert {key: spec[key] for key in ("minAvailable", "maxUnavailable") if key in spec} == expected


def test_an_ingress_has_its_hosts_paths_class_and_certificates() -> None:
    release = rendered(RICH)
    rest, grpc = release.one("Ingress"), release.one("Ingress", "-grpc")
    for each in (rest, grpc):
        assert each["spec"]["ingressClassName"] == "nginx"
        assert each["spec"]["tls"][0]["hosts"] == [each["spec"]["rules"][0]["host"]]
    paths = [each["spec"]["rules"][0]["http"]["paths"][0] for each in (rest, grpc)]
    assert [(path["path"], path["pathType"]) for path in paths] == [("/v2", "Prefix"), ("/", "Prefix")]
    protocol = "nginx.ingress.kubernetes.io/backend-protocol"
    assert grpc["metadata"]["annotations"][protocol] == "GRPC"
    assert protocol not in rest["metadata"]["annotations"]


def test_routes_carry_what_is_given_for_them() -> None:
    spec = rendered(ENABLED["HTTPRoute", ""]).one("HTTPRoute")["spec"]
    assert spec["parentRefs"] == GATEWAY
    assert spec["rules"][0]["timeouts"] == {"request": "0s"}
    assert spec["rules"][0]["matches"] == [{"path": {"type": "PathPrefix", "value": "/"}}]
    assert "hostnames" not in spec
    assert rendered(RICH).one("GRPCRoute")["spec"]["hostnames"] == ["grpc.example.com"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"podDisruptionBudget": {"enabled": True, "minAvailable": 1, "maxUnavailable": 1}},
            "null, because podDisruptionBudget.minAvailable is given",
        ),
        ({"ingress": {"enabled": True}}, "/ingress/hosts': minItems: got 0, want 1"),
        ({"ingress": {"grpc": {"enabled": True}}}, "/ingress/grpc/hosts': minItems: got 0, want 1"),
        (
            {"ingress": {"enabled": True, "hosts": HOSTS, "grpc": {"enabled": True, "hosts": HOSTS}}},
            "expected a host that is not in ingress.hosts.*got a.example.com",
        ),
        ({"httpRoute": {"enabled": True}}, "/httpRoute/parentRefs': minItems: got 0, want 1"),
        ({"grpcRoute": {"enabled": True}}, "/grpcRoute/parentRefs': minItems: got 0, want 1"),
        (ENABLED["HTTPRoute", ""] | ENABLED["GRPCRoute", ""], "grpcRoute.hostnames: expected hostnames that httpRoute"),
    ],
)
def test_what_cannot_be_is_refused_with_a_reason(values: Values, words: str) -> None:
    with pytest.raises(ChartRefused, match=words):
        render_helm4(values)


def test_routes_with_hostnames_or_listeners_of_their_own_go_together() -> None:
    elsewhere = [{"name": "gateway", "namespace": "gateways", "sectionName": "grpc"}]
    grpc = {"grpcRoute": {"enabled": True, "parentRefs": elsewhere}}
    assert rendered(ENABLED["HTTPRoute", ""] | grpc).one("GRPCRoute")["spec"]["parentRefs"] == elsewhere
