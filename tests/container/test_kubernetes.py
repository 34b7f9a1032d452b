"""The manifests: right by Kubernetes' own schemas, right about each other, and about the program that they run."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
import yaml

from container.app import app
from gateway.database.postgres import COMMAND_TIMEOUT_S
from local.template import load
from tests.container.image import instructions

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "container/kubernetes"
OLDEST = "1.30"
"""The first to know preStop's sleep."""
NEWEST = kubernetes_validate.latest_version()

type Manifest = dict[str, Any]

MANIFESTS: list[Manifest] = [
    document
    for file in sorted(FOLDER.glob("*.yaml"))
    if file.name != "kustomization.yaml"
    for document in yaml.safe_load_all(file.read_text())
]
KUSTOMIZATION: Manifest = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())


def named(manifest: Manifest) -> str:
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


def of_kind(kind: str) -> list[Manifest]:
    found = [manifest for manifest in MANIFESTS if manifest["kind"] == kind]
    assert found
    return found


DEPLOYMENTS = {manifest["metadata"]["name"]: manifest for manifest in of_kind("Deployment")}
PODS: dict[str, Manifest] = {name: manifest["spec"]["template"] for name, manifest in DEPLOYMENTS.items()}
GATEWAY: Manifest = PODS["gateway"]["spec"]["containers"][0]


def selected(labels: dict[str, str]) -> set[str]:
    """The deployments whose pods have these labels."""
    return {name for name, pod in PODS.items() if labels.items() <= pod["metadata"]["labels"].items()}


def places(value: Any) -> Iterator[Manifest]:
    """Every mapping in a manifest."""
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from places(each)
    elif isinstance(value, list):
        for each in value:
            yield from places(each)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("manifest", MANIFESTS, ids=named)
def test_kubernetes_takes_it(manifest: Manifest, version: str):
    kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("manifest", MANIFESTS, ids=named)
def test_a_field_that_is_misspelt_is_found_wherever_it_is(manifest: Manifest):
    for number, _ in enumerate(places(manifest)):
        changed = deepcopy(manifest)
        list(places(changed))[number]["misspelt"] = {"a": []}
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(changed, NEWEST, strict=True)


def test_every_file_is_applied_but_the_secret():
    files = {file.name for file in FOLDER.glob("*.yaml")}
    assert {*KUSTOMIZATION["resources"], "kustomization.yaml", "secret.example.yaml"} == files
    images = {container["image"] for pod in PODS.values() for container in pod["spec"]["containers"]}
    assert images == {image["name"] for image in KUSTOMIZATION["images"]}


def test_who_selects_pods_finds_the_right_ones():
    for name, manifest in DEPLOYMENTS.items():
        assert selected(manifest["spec"]["selector"]["matchLabels"]) == {name}
        for spread in manifest["spec"]["template"]["spec"].get("topologySpreadConstraints", []):
            assert selected(spread["labelSelector"]["matchLabels"]) == {name}
    (service,), (budget,), (scaler,) = map(of_kind, ("Service", "PodDisruptionBudget", "HorizontalPodAutoscaler"))
    assert selected(service["spec"]["selector"]) == selected(budget["spec"]["selector"]["matchLabels"]) == {"gateway"}
    target = scaler["spec"]["scaleTargetRef"]
    assert (target["kind"], DEPLOYMENTS[target["name"]]["apiVersion"]) == ("Deployment", target["apiVersion"])
    policies = {
        each["metadata"]["name"]: selected(each["spec"]["podSelector"]["matchLabels"])
        for each in of_kind("NetworkPolicy")
    }
    assert policies == {"gateway": {"gateway"}, "gatewayz": {"gateway", "jobs"}, "metrics": {"gateway", "jobs"}}


def test_nobody_but_the_autoscaler_says_how_many():
    (scaler,) = of_kind("HorizontalPodAutoscaler")
    (budget,) = of_kind("PodDisruptionBudget")
    assert "replicas" not in DEPLOYMENTS["gateway"]["spec"]
    assert scaler["spec"]["minReplicas"] > budget["spec"]["maxUnavailable"]


def test_ports_are_the_programs():
    port, metrics = GATEWAY["ports"]
    (service,) = of_kind("Service")
    said = dict(instructions((ROOT / "container/Dockerfile").read_text()))
    assert port["containerPort"] == int(said["EXPOSE"])
    probes = [GATEWAY[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")]
    (policy,) = [each for each in of_kind("NetworkPolicy") if each["metadata"]["name"] == "gateway"]
    using = [each["targetPort"] for each in service["spec"]["ports"]]
    using += [each["port"] for each in (*probes, *policy["spec"]["ingress"][0]["ports"])]
    assert set(using) == {port["name"]}
    (configured,) = of_kind("ConfigMap")
    (scraped,) = [each for each in of_kind("NetworkPolicy") if each["metadata"]["name"] == "metrics"]
    assert [each["port"] for each in scraped["spec"]["ingress"][0]["ports"]] == [metrics["name"]]
    told = str(metrics["containerPort"])
    assert configured["data"]["METRICS_PORT"] == told
    for deployment in DEPLOYMENTS.values():
        assert deployment["spec"]["template"]["metadata"]["annotations"]["prometheus.io/port"] == told


def test_probes_ask_what_there_is_and_only_the_start_depends_on_the_database():
    asked = {kind: GATEWAY[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")}
    assert asked == {"startup": "/health", "readiness": "/ping", "liveness": "/ping"}
    assert all(app.serving(path) is not app.serving("/no-such-path") for path in asked.values())


def test_settings_come_from_what_is_there():
    configured, secret = of_kind("ConfigMap"), of_kind("Secret")
    for pod in PODS.values():
        for container in pod["spec"]["containers"]:
            sources = [(kind, each["name"]) for source in container["envFrom"] for kind, each in source.items()]
            assert sources == [
                ("configMapRef", configured[0]["metadata"]["name"]),
                ("secretRef", secret[0]["metadata"]["name"]),
            ]


def test_every_setting_is_one_that_is_read():
    text = (ROOT / "shared/gateway/settings.py").read_text() + "".join(
        (ROOT / f"container/{name}.py").read_text() for name in ("__main__", "metrics")
    )
    read = set(re.findall(r"\"([A-Z][A-Z_]+)\"", text))
    providers = re.search(r"^PROVIDERS = (.*)$", text, re.MULTILINE)
    assert providers is not None
    read |= {f"{name.upper()}_API_KEY" for name in re.findall(r"\w+", providers[1])}
    configured = [*of_kind("ConfigMap")[0]["data"], *of_kind("Secret")[0]["stringData"]]
    assert set(configured) <= read
    assert len(configured) == len(set(configured))
    assert set(of_kind("Secret")[0]["stringData"].values()) == {""}


def test_a_pod_may_take_as_long_to_end_as_what_it_does():
    template = load(ROOT / "template.yaml", "")
    limits = {function.name: function.timeout_s for function in template.functions}
    slept = GATEWAY["lifecycle"]["preStop"]["sleep"]["seconds"]
    graces = {name: pod["spec"]["terminationGracePeriodSeconds"] for name, pod in PODS.items()}
    assert graces["gateway"] >= slept + limits["ChatFunction"] + 3 * COMMAND_TIMEOUT_S
    assert graces["jobs"] >= limits["JobsFunction"] + 3 * COMMAND_TIMEOUT_S


@pytest.mark.parametrize("name", PODS)
def test_a_pod_can_do_nothing_but_its_work(name: str):
    pod = PODS[name]["spec"]
    said = dict(instructions((ROOT / "container/Dockerfile").read_text()))
    assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)
    who = pod["securityContext"]
    assert f"{who['runAsUser']}:{who['runAsGroup']}" == said["USER"]
    assert (who["runAsNonRoot"], who["seccompProfile"]) == (True, {"type": "RuntimeDefault"})
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"].keys() == {"memory"}
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}


def test_the_jobs_are_the_same_image_with_another_program():
    assert PODS["jobs"]["spec"]["containers"][0]["command"] == ["python", "-m", "container.jobs"]
