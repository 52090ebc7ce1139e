"""What docs/deploy.md shows for the chart is rendered by it; its program is run in test_balancing_clients.py."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from deploy.helm_render import render_helm4
from deploy.kubernetes_schemas import VERSIONS, problems
from deploy.releases import Release
from running_server import ROOT

PAGE = (ROOT / "docs" / "deploy.md").read_text()
VALUES = [yaml.safe_load(text) for text in re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)]
CPU, IMAGE, GPU, LANGUAGE = VALUES


@pytest.mark.parametrize("values", VALUES, ids=["cpu", "image", "gpu", "language"])
def test_the_values_in_the_docs_make_objects_that_kubernetes_takes(values: Any) -> None:
    version = VERSIONS[-1]
    assert [problem for each in render_helm4(values) for problem in problems(each, version)] == []


def test_the_values_in_the_docs_do_what_it_says() -> None:
    cpu, image, gpu, language = (Release(render_helm4(values)) for values in VALUES)
    assert cpu.workload["spec"]["replicas"] == 3
    assert cpu.one("Service", "-headless")["metadata"]["name"] in PAGE
    assert cpu.one("PodDisruptionBudget")
    assert any("image" in volume for volume in image.pod["volumes"])
    assert gpu.server["resources"]["limits"]["gpu.intel.com/xe"] in (1, "1")
    assert language.pod["terminationGracePeriodSeconds"] == 325
    assert language.server["startupProbe"]["failureThreshold"] == 240


def test_the_services_of_the_proxy_are_of_the_form_that_the_chart_makes() -> None:
    """Only the name of the release and of the namespace are to be changed in it."""
    proxy = yaml.safe_load((ROOT / "deploy" / "envoy" / "envoy.yaml").read_text())
    ports = {
        each["name"]: each["port"] for each in Release(render_helm4(CPU)).one("Service", "-headless")["spec"]["ports"]
    }
    for cluster in proxy["static_resources"]["clusters"]:
        (place,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        address = place["endpoint"]["address"]["socket_address"]
        assert re.fullmatch(r"[\w-]*vintner-headless\.\w+\.svc\.cluster\.local", address["address"])
        assert address["port_value"] == ports["grpc" if cluster["name"] == "vintner_grpc" else "http"]


def test_the_options_of_the_proxy_that_the_page_names_are_there() -> None:
    text = (ROOT / "deploy" / "envoy" / "envoy.yaml").read_text()
    rows = PAGE.partition("| Setting | Why |")[2].partition("\n\n")[0].splitlines()[2:]
    named = {name for row in rows for name in re.findall(r"`(\w+)(?::[^`]*)?`", row.split("|")[1])}
    assert len(named) >= 10
    assert [name for name in named if name not in text] == []
