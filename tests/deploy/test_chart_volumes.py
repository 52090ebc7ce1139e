"""What values make of the volumes of a pod and of its claims, and what follows from them for its workload."""

from __future__ import annotations

from typing import Any

import pytest
from deploy.helm_render import ChartRefused, render_helm3
from deploy.releases import WORKLOADS, refused, released

COPY = {"image": "rclone/rclone:1", "args": ["copy", "store:models", "$(MODEL_REPOSITORY)"]}
REPOSITORIES: dict[str, dict[str, Any]] = {
    "existingClaim": {"existingClaim": {"name": "filled"}},
    "newClaim": {},
    "volume": {"volume": {"nfs": {"server": "files", "path": "/models"}}},
    "configMap": {"configMap": {"name": "models"}},
    "image": {"image": {"reference": "registry.example.com/models:1"}},
    "copy": {"copy": COPY},
}
SOURCES = {
    "existingClaim": {"persistentVolumeClaim": {"claimName": "filled", "readOnly": True}},
    "newClaim": {"persistentVolumeClaim": {"claimName": "cellar-vintner-models"}},
    "volume": {"nfs": {"server": "files", "path": "/models"}},
    "configMap": {"configMap": {"name": "models"}},
    "image": {"image": {"reference": "registry.example.com/models:1", "pullPolicy": "IfNotPresent"}},
    "copy": {"emptyDir": {"sizeLimit": "10Gi"}},
}


def repository(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, **REPOSITORIES[kind], **more}


@pytest.mark.parametrize("kind", REPOSITORIES)
def test_models_are_mounted_read_only_where_the_server_looks_for_them(kind: str) -> None:
    release = released(modelRepository=repository(kind, mountPath="/mnt/wine", subPath="red/"))
    assert release.volume("models") == SOURCES[kind]
    assert release.mount("models") == {"name": "models", "mountPath": "/mnt/wine", "readOnly": True}
    assert release.config["model_repository"] == "/mnt/wine/red"


@pytest.mark.parametrize("kind", WORKLOADS)
@pytest.mark.parametrize("models", [*REPOSITORIES, "bundled"])
@pytest.mark.parametrize("cache", ["none", "emptyDir", "existingClaim", "newClaim"])
def test_each_mount_has_its_volume_and_each_volume_a_mount(kind: str, models: str, cache: str) -> None:
    values = {
        "kind": kind,
        "modelRepository": {"type": models, **REPOSITORIES.get(models, {})},
        "cache": {"type": cache, "existingClaim": "compiled"},
    }
    if (kind, cache) == ("Deployment", "newClaim"):
        assert "newClaim only where kind is StatefulSet" in refused(**values)
        return
    release = released(**values)
    mounts = {each["name"] for each in release.server["volumeMounts"]}
    own = [each["metadata"]["name"] for each in release.workload["spec"].get("volumeClaimTemplates", [])]
    volumes = [each["name"] for each in release.pod["volumes"]] + own
    assert sorted(mounts) == sorted(volumes)
    new = [name for name, given in (("models", models), ("cache", cache)) if given == "newClaim"]
    assert own == (new if kind == "StatefulSet" else [])
    assert ("cache_dir" in release.config) is (cache != "none")
    if cache != "none":
        assert release.mount("cache") == {"name": "cache", "mountPath": release.config["cache_dir"]}


def test_volumes_from_images_are_refused_where_kubernetes_has_none() -> None:
    models = {"modelRepository": repository("image")}
    with pytest.raises(ChartRefused, match=r"came with Kubernetes 1\.31, this is v1\.30\.0; expected another one"):
        render_helm3(models, kubernetes="1.30.0")
    assert render_helm3(models, kubernetes="1.31.0")


def test_an_init_container_fills_the_directory_that_it_is_told() -> None:
    pod = released(modelRepository=repository("copy"), initContainers=[{"name": "further", "image": "a"}]).pod
    copy, further = pod["initContainers"]
    assert further == {"name": "further", "image": "a"}
    assert copy["env"] == [{"name": "MODEL_REPOSITORY", "value": "/models"}]
    assert {"name": "models", "mountPath": "/models"} in copy["volumeMounts"]
    assert (copy["image"], copy["args"]) == (COPY["image"], COPY["args"])
    assert copy["securityContext"] == pod["containers"][0]["securityContext"]


def test_a_claim_of_its_own_is_one_for_all_or_one_for_each() -> None:
    claim = {"size": "3Gi", "storageClass": "fast", "accessModes": ["ReadWriteMany"], "annotations": {"a": "b"}}
    spec = {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "fast",
        "resources": {"requests": {"storage": "3Gi"}},
    }
    shared = released(modelRepository={"type": "newClaim", "newClaim": claim}, replicas=3)
    assert shared.one("PersistentVolumeClaim")["spec"] == spec
    assert shared.one("PersistentVolumeClaim")["metadata"]["annotations"] == {"a": "b"}
    each = released(modelRepository={"type": "newClaim", "newClaim": claim}, kind="StatefulSet", replicas=3)
    assert not [item for item in each.objects if item["kind"] == "PersistentVolumeClaim"]
    [template] = each.workload["spec"]["volumeClaimTemplates"]
    assert template["spec"] == spec
    assert template["metadata"]["annotations"] == {"a": "b"}
    assert set(template["metadata"]["labels"]) == {"app.kubernetes.io/name", "app.kubernetes.io/instance"}


@pytest.mark.parametrize("keep", [True, False])
def test_a_claim_outlives_the_release_where_it_shall(keep: bool) -> None:
    models = {"type": "newClaim", "newClaim": {"keep": keep}}
    annotations = released(modelRepository=models).one("PersistentVolumeClaim")["metadata"].get("annotations", {})
    assert (annotations.get("helm.sh/resource-policy") == "keep") is keep
    spec = released(modelRepository=models, kind="StatefulSet").workload["spec"]
    assert spec["persistentVolumeClaimRetentionPolicy"] == {
        "whenDeleted": "Retain" if keep else "Delete",
        "whenScaled": "Retain",
    }


@pytest.mark.parametrize(
    "scale",
    [{"replicas": 2}, {"autoscaling": {"enabled": True}}, {"keda": {"enabled": True, "prometheusAddress": "http://p"}}],
)
def test_a_volume_for_one_node_is_not_for_many_pods(scale: dict[str, Any]) -> None:
    models: dict[str, Any] = {"type": "newClaim"}
    assert "pods share this claim, and ReadWriteOnce is for one node" in refused(modelRepository=models, **scale)
    assert released(modelRepository=models, kind="StatefulSet", **scale)
    models["newClaim"] = {"accessModes": ["ReadWriteOnce", "ReadOnlyMany"]}
    assert released(modelRepository=models, **scale).workload["spec"]["strategy"]["type"] == "RollingUpdate"


def test_the_old_pod_goes_first_only_where_both_cannot_have_the_volume() -> None:
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    assert released().workload["spec"]["strategy"] == rolling
    alone = released(modelRepository={"type": "newClaim"})
    assert alone.workload["spec"]["strategy"] == {"type": "Recreate"}
    given = released(modelRepository={"type": "newClaim"}, updateStrategy=rolling)
    assert given.workload["spec"]["strategy"] == rolling
