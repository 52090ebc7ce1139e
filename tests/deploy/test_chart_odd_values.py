"""Names that YAML reads as something else, texts with its signs, defaults that are taken away: what is rendered is read
as it was meant, or the value is refused by its name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from deploy.chart_value_sets import ADMITTED
from deploy.helm_render import CHART, ChartRefused, Object, Values, notes_helm4, render_helm3, render_helm4
from deploy.helm_render import templates_alone as without_schema
from deploy.kubernetes_schemas import problems
from deploy.releases import Release, refused, released

EVERYTHING = ADMITTED["everything around the pods"]
READ_AS_ELSE = ["123", "null", "no", "0x1f"]
"""Names for Kubernetes; a number, nothing, false and a number for YAML 1.1."""
CLAIM: Values = {"type": "existingClaim", "existingClaim": {"name": "models"}}
BOTH_HELMS = pytest.mark.parametrize("render", [render_helm3, render_helm4])


@pytest.mark.parametrize("name", READ_AS_ELSE)
def test_a_namespace_is_a_text_whatever_its_name(name: str) -> None:
    assert {each["metadata"]["namespace"] for each in render_helm4(EVERYTHING, namespace=name)} == {name}


@pytest.mark.parametrize("name", ["null", "no", "true"])
def test_names_of_objects_are_texts(name: str) -> None:
    objects = render_helm4({**EVERYTHING, "fullnameOverride": name})
    assert [problem for each in objects for problem in problems(each, "1.33")] == []
    assert {each["metadata"]["name"].removesuffix("-headless") for each in objects if each["kind"] == "Service"} == {
        name
    }
    assert Release(objects).workload["spec"]["serviceName"] == f"{name}-headless"


@pytest.mark.parametrize("name", READ_AS_ELSE)
def test_names_of_what_exists_are_texts(name: str) -> None:
    release = released(
        serviceAccount={"create": False, "name": name},
        ingress={"enabled": True, "className": name, "hosts": [{"host": "models.example.com"}]},
    )
    assert release.pod["serviceAccountName"] == release.one("Pod")["spec"]["serviceAccountName"] == name
    assert release.one("Ingress")["spec"]["ingressClassName"] == name


@BOTH_HELMS
@pytest.mark.parametrize("release", ["2024", "a.b"])
def test_a_release_whose_services_kubernetes_would_refuse_is_refused(
    render: Callable[..., list[Object]], release: str
) -> None:
    with pytest.raises(ChartRefused, match=f"the release's name, {release}: .* fullnameOverride"):
        render({}, release=release)
    assert render({"fullnameOverride": "vats"}, release=release)


@pytest.mark.parametrize("text", ["a\u2028b: c", "{{ .Release.Name }}", "a'b\"c\n  evil: true\n", "- &a !t *b", " # "])
@BOTH_HELMS
def test_a_text_reaches_the_servers_file_as_it_is(render: Callable[..., list[Object]], text: str) -> None:
    release = Release(render({"modelRepository": {**CLAIM, "modelName": text}}))
    assert release.config["model_name"] == text
    assert list(release.one("ConfigMap")["data"]) == ["config.yaml"]


@pytest.mark.parametrize("place", ["/models # x", "/models\nb", "/1"])
def test_a_directory_is_mounted_where_the_server_looks_for_it(place: str) -> None:
    release = released(modelRepository={**CLAIM, "mountPath": place}, cache={"mountPath": f"{place} cache"})
    assert release.mount("models")["mountPath"] == release.config["model_repository"] == place
    assert release.mount("cache")["mountPath"] == release.config["cache_dir"] == f"{place} cache"


def test_an_empty_annotation_of_an_object_is_one() -> None:
    own, common = {"a": "", "b": "own"}, {"a": "common", "b": "common", "c": "common"}
    release = released(service={"annotations": own}, commonAnnotations=common)
    assert release.one("Service")["metadata"]["annotations"] == {**common, **own}
    assert release.workload["metadata"]["annotations"] == common


# -- defaults that are taken away -----------------------------------------------------------------------------


def keys(values: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from keys(value, (*above, key))


def combined(values: Values, over: Values) -> dict[str, Any]:
    """As Helm does it: null takes a key away."""
    result = dict(values)
    for key, value in over.items():
        inner = result.get(key)
        result[key] = combined(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return {key: value for key, value in result.items() if value is not None}


def holes(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from holes(each)
    elif value is None or "<nil>" in str(value) or "<no value>" in str(value):
        yield value


DEFAULTS: Values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
VALIDATOR = jsonschema_rs.validator_for(json.loads((CHART / "values.schema.json").read_text(encoding="utf-8")))
SETS = [
    {},
    EVERYTHING,
    *(ADMITTED[name] for name in ("copied models", "a stateful set with a volume for each replica", "KEDA")),
    *(ADMITTED[name] for name in ("a new claim", "an image of models", "autoscaling by the queue")),
]


@pytest.mark.parametrize("path", list(keys(DEFAULTS)), ids=".".join)
def test_null_is_refused_by_name_or_leaves_no_hole(path: tuple[str, ...]) -> None:
    null: Any = None
    for part in reversed(path):
        null = {part: null}
    for values in (each for each in SETS if path[0] in each or not each):
        over = combined_over(values, null)
        if not VALIDATOR.is_valid(combined(DEFAULTS, over)):
            continue
        objects, refusal = rendered_or_refused(over)
        assert "expected" in refusal or objects, refusal
        if objects:
            assert [problem for each in objects for problem in problems(each, "1.33")] == []
            assert [*holes(objects), *holes(Release(objects).config)] == []
            assert "<nil>" not in notes_helm4(over, chart=without_schema())


def rendered_or_refused(values: Values) -> tuple[list[Object], str]:
    try:
        return render_helm4(values, chart=without_schema()), ""
    except ChartRefused as refusal:
        return [], str(refusal)


def combined_over(values: Values, over: Values) -> dict[str, Any]:
    """Both sets of values, nulls among them."""
    result = dict(values)
    for key, value in over.items():
        inner = result.get(key)
        result[key] = combined_over(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return result


@pytest.mark.parametrize("values", [{"service": {"ports": {"http": None}}}, {"keda": None}, {"replicas": None}])
def test_what_is_missing_is_named(values: Values) -> None:
    *_, last = keys(values)
    assert f"missing property '{last[-1]}'" in refused(**values)


# -- as a part of another chart, and what is said after an installation ----------------------------------------


@pytest.mark.parametrize("enabled", [True, False])
@BOTH_HELMS
def test_another_chart_may_take_this_one_on_a_condition(
    render: Callable[..., list[Object]], enabled: bool, tmp_path: Path
) -> None:
    dependency = {"name": "vintner", "version": "0.1.0", "condition": "vintner.enabled"}
    about = {"apiVersion": "v2", "name": "cellar", "version": "1.0.0", "dependencies": [dependency]}
    (tmp_path / "Chart.yaml").write_text(yaml.safe_dump(about))
    shutil.copytree(CHART, tmp_path / "charts" / "vintner")
    objects = render({"vintner": {"enabled": enabled}}, chart=tmp_path)
    assert ("Deployment" in {each["kind"] for each in objects}) is enabled


def claims_noted(**values: Any) -> list[str]:
    notes = notes_helm4({"modelRepository": CLAIM, **values})
    return [line for line in notes.splitlines() if line.startswith("NOTE: ") and "claim models" in line]


def test_the_notes_warn_of_two_pods_that_need_one_claim() -> None:
    assert claims_noted(replicas=3)[0].startswith("NOTE: up to 3 pods share claim models")
    assert claims_noted()[0].startswith("NOTE: the old and the new pod of an update share claim models")
    assert claims_noted(updateStrategy={"type": "Recreate"}) == claims_noted(kind="StatefulSet") == []


@pytest.mark.parametrize(
    "values",
    [
        {"server": {"extraArgs": ["--model-control=explicit"]}},
        {"server": {"extraArgs": ["--model_control_mode", "explicit"]}},
        {"server": {"config": {"config_path": "/etc/models.json"}}},
        {"env": [{"name": "VINTNER_MODEL_CONTROL", "value": "explicit"}]},
    ],
)
def test_nobody_is_told_to_ask_examples_that_are_not_loaded(values: Values) -> None:
    assert "--digits=digits" in released().one("Pod")["spec"]["containers"][0]["args"]
    assert "--digits=digits" not in released(**values).one("Pod")["spec"]["containers"][0]["args"]
    assert "models/digits" not in notes_helm4(values)
