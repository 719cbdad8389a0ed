"""infra/kuberay: what Kubernetes and KubeRay accept, and what a cluster must not be started without."""

import re
from collections.abc import Callable

import jsonschema
import pytest
import ray
import yaml
from infra_files import (
    CRDS,
    KUBERAY,
    RAY_KINDS,
    ROOT,
    Document,
    check_manifest,
    clusters,
    containers,
    crd_schema,
    documents,
    manifests,
    pods,
    spoiled,
    text,
)

MANIFESTS = manifests()
RAY = [(name, each) for name, each in MANIFESTS if each["kind"] in RAY_KINDS]
WITH_PODS = [(name, each) for name, each in MANIFESTS if list(pods(each))]


def _named(cases: list[tuple[str, Document]]) -> dict:
    ids = [f"{file}:{each['kind']}:{each['metadata'].get('name', 'generated')}" for file, each in cases]
    return {"argvalues": [each for _, each in cases], "ids": ids}


@pytest.mark.parametrize("document", **_named(MANIFESTS))
def test_is_what_the_schema_allows(document: Document) -> None:
    check_manifest(document)


@pytest.mark.skipif(not CRDS, reason="KubeRay's own definitions are not here: make infra-check CRDS=<folder>")
@pytest.mark.parametrize("document", **_named(RAY))
def test_is_what_kuberay_allows(document: Document) -> None:
    jsonschema.Draft7Validator(crd_schema(document["kind"], CRDS)).validate(document)


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("raycluster.yaml", "mode: token", "mode: disabled", "'token' was expected"),
        ("raycluster.yaml", "    secretName: mskray-ray-token\n", "", "'secretName' is a required property"),
        ("raycluster.yaml", "authOptions:", "authOption:", "authOption"),
        ("raycluster.yaml", "maxReplicas: 16", 'maxReplicas: "16"', "is not of type 'integer'"),
        ("raycluster.yaml", "readOnlyRootFilesystem: true", "readOnlyRootFilesytem: true", "readOnlyRootFilesytem"),
        ("raycluster.yaml", "containerPort: 8265", "containerPort: dashboard", "dashboard"),
        ("raycluster.yaml", "serviceType: ClusterIP", "serviceType: LoadBalancer", "'ClusterIP' was expected"),
        ("rayjob.yaml", "entrypoint:", "entryPoint:", "entryPoint"),
        ("rayjob.yaml", "submissionMode: K8sJobMode", "submissionMode: Kubernetes", "is not one of"),
        ("rayjob.yaml", "generateName: mskray-train-", "generateName: MSKRAY", "does not match"),
        ("rayservice.yaml", "serveConfigV2:", "serveConfig:", "serveConfig"),
        ("rayservice.yaml", "key: password}", "value: secret}", "value"),
        ("redis.yaml", "serviceName: mskray-redis", "servicename: mskray-redis", "servicename"),
        ("network-policies.yaml", "policyTypes: [Egress]", "policyTypes: Egress", "is not of type"),
        ("disruption-budgets.yaml", "maxUnavailable: 0", "maxUnavailable: [0]", "is not valid under any"),
        ("namespace.yaml", "verbs: [get, list, watch]", "verbs: all", "is not of type"),
    ],
)
def test_a_spoiled_file_is_refused(file: str, old: str, new: str, said: str) -> None:
    found = []
    for document in documents(spoiled((KUBERAY / file).read_text("utf-8"), old, new)):
        try:
            check_manifest(document)
        except jsonschema.ValidationError as error:
            found.append(str(error))
    assert any(said in each for each in found), found


@pytest.mark.parametrize("document", **_named(RAY))
def test_a_cluster_asks_for_a_token_and_has_the_version_that_is_locked(document: Document) -> None:
    cluster = clusters(document)
    assert cluster["authOptions"] == {"mode": "token", "secretName": "mskray-ray-token"}
    for name, container in containers(document):
        # Pseudonyms of a key that is lost with its pod would never meet those of the next ingest.
        keys = {each["name"] for each in container.get("env", []) if "valueFrom" in each}
        assert name.startswith("submitter") or "MSKRAY_HASH_KEY" in keys
    assert cluster["rayVersion"] == ray.__version__
    # A head that runs work can be killed by it.
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def faults(document: Document) -> list[str]:
    """What a pod of this document may do that it need not."""
    found = []
    for name, pod in pods(document):
        spec = pod["spec"]
        context = spec.get("securityContext", {})
        if not context.get("runAsNonRoot") or not context.get("runAsUser"):
            found.append(f"{name}: may run as root")
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            found.append(f"{name}: no seccomp profile")
        if spec.get("automountServiceAccountToken", True) and name != "head":
            found.append(f"{name}: has Kubernetes' token")
        found += [f"{name}: {key}" for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)]
        found += [f"{name}: a folder of the machine" for volume in spec.get("volumes", []) if "hostPath" in volume]
    for name, container in containers(document):
        context = container.get("securityContext", {})
        if context.get("allowPrivilegeEscalation", True) or context.get("privileged"):
            found.append(f"{name}: may gain privileges")
        if not context.get("readOnlyRootFilesystem"):
            found.append(f"{name}: may write to its image")
        if context.get("capabilities", {}).get("drop") != ["ALL"]:
            found.append(f"{name}: keeps capabilities")
        resources = container.get("resources", {})
        if not {"cpu", "memory"} <= resources.get("limits", {}).keys() & resources.get("requests", {}).keys():
            found.append(f"{name}: without limits")
        if not re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+[\w.-]*", container["image"]):
            found.append(f"{name}: image without a version")
        if name.split("/")[0] != "submitter" and not {"livenessProbe", "readinessProbe"} <= container.keys():
            found.append(f"{name}: without probes")
        found += [
            f"{name}: {variable['name']} in plain text"
            for variable in container.get("env", [])
            if "value" in variable and re.search("TOKEN|PASSWORD|SECRET|KEY", variable["name"])
        ]
    return found


@pytest.mark.parametrize("document", **_named(WITH_PODS))
def test_a_pod_may_do_only_what_it_must(document: Document) -> None:
    assert faults(document) == []


def _context(document: Document) -> Document:
    return next(containers(document))[1]["securityContext"]


SPOILS: list[tuple[str, Callable[[Document], object]]] = [
    ("may run as root", lambda each: next(pods(each))[1]["spec"]["securityContext"].update(runAsUser=0)),
    ("no seccomp profile", lambda each: next(pods(each))[1]["spec"]["securityContext"].pop("seccompProfile")),
    ("hostNetwork", lambda each: next(pods(each))[1]["spec"].update(hostNetwork=True)),
    (
        "a folder of the machine",
        lambda each: next(pods(each))[1]["spec"]["volumes"].append({"hostPath": {"path": "/"}}),
    ),
    ("may gain privileges", lambda each: _context(each).update(allowPrivilegeEscalation=True)),
    ("may write to its image", lambda each: _context(each).pop("readOnlyRootFilesystem")),
    ("keeps capabilities", lambda each: _context(each).update(capabilities={"add": ["SYS_ADMIN"]})),
    ("without limits", lambda each: next(containers(each))[1]["resources"].pop("limits")),
    ("image without a version", lambda each: next(containers(each))[1].update(image="mskray:latest")),
    ("without probes", lambda each: next(containers(each))[1].pop("livenessProbe")),
    ("in plain text", lambda each: next(containers(each))[1]["env"].append({"name": "MY_TOKEN", "value": "x"})),
]


@pytest.mark.parametrize(("said", "spoil"), SPOILS, ids=[said for said, _ in SPOILS])
def test_a_pod_that_may_do_more_is_found(said: str, spoil: Callable[[Document], object]) -> None:
    document = documents(text("infra/kuberay/raycluster.yaml"))[0]
    spoil(document)
    assert any(said in fault for fault in faults(document))


def test_everything_is_refused_by_default_and_the_metadata_service_always() -> None:
    policies = [each for _, each in MANIFESTS if each["kind"] == "NetworkPolicy"]
    closed = next(each["spec"] for each in policies if each["metadata"]["name"] == "nothing-by-default")
    assert closed == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for policy in policies:
        for rule in policy["spec"].get("ingress", []):
            assert rule.get("from"), f"{policy['metadata']['name']} lets anybody in"
            assert not any("ipBlock" in each for each in rule["from"])
        for rule in policy["spec"].get("egress", []):
            assert rule.get("to"), f"{policy['metadata']['name']} lets out to anywhere"
            blocks = [each["ipBlock"] for each in rule["to"] if "ipBlock" in each]
            assert all("169.254.0.0/16" in block["except"] for block in blocks)


def test_a_deleted_cluster_is_taken_out_of_redis() -> None:
    """The pod that does it is a head of another type; what it cannot clear fills a Redis that throws nothing away."""
    policies = {each["metadata"]["name"]: each["spec"] for _, each in MANIFESTS if each["kind"] == "NetworkPolicy"}
    may = {"matchExpressions": [{"key": "ray.io/node-type", "operator": "In", "values": ["head", "redis-cleanup"]}]}
    assert policies["to-redis"]["podSelector"] == may
    assert policies["redis"]["ingress"][0]["from"] == [{"podSelector": may}]


def test_selectors_and_references_meet() -> None:
    """A misspelt label is no error to Kubernetes: the policy or budget covers nothing."""
    labels = {pod["metadata"]["labels"]["mskray/role"] for _, each in WITH_PODS for _, pod in pods(each)}
    for _, document in MANIFESTS:
        if document["kind"] in ("NetworkPolicy", "PodDisruptionBudget", "Service"):
            for role in re.findall(r"mskray/role': '([\w-]+)'", str(document)):
                assert role in labels, f"{document['metadata']['name']} selects {role}, which no pod is"
    accounts = {each["metadata"]["name"] for _, each in MANIFESTS if each["kind"] == "ServiceAccount"}
    told = text("infra/README.md")
    for _, document in WITH_PODS:
        for name, pod in pods(document):
            account = pod["spec"].get("serviceAccountName")
            assert account is None or account in accounts, name
            mounted = {mount["name"] for each in pod["spec"]["containers"] for mount in each["volumeMounts"]}
            claims = {each["metadata"]["name"] for each in document["spec"].get("volumeClaimTemplates", [])}
            assert mounted == {volume["name"] for volume in pod["spec"]["volumes"]} | claims, name
        for secret in re.findall(r"(?:secretName|secretKeyRef': {'name)': '([\w-]+)'", str(document)):
            assert f"secret generic {secret}" in told, f"infra/README.md does not say how {secret} is made"


def test_people_who_submit_may_neither_enter_pods_nor_read_secrets() -> None:
    for _, document in MANIFESTS:
        if document["kind"] in ("Role", "ClusterRole"):
            for rule in document["rules"]:
                assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
                assert not {"secrets", "pods/exec", "pods/portforward"} & set(rule["resources"])


def test_spot_workers_go_where_spot_machines_are() -> None:
    for file in ("raycluster.yaml", "rayjob.yaml"):
        groups = clusters(documents((KUBERAY / file).read_text("utf-8"))[0])["workerGroupSpecs"]
        spec = next(group for group in groups if group["groupName"] == "gpu-spot")["template"]["spec"]
        required = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        wanted = {term["matchExpressions"][0]["key"] for term in required["nodeSelectorTerms"]}
        tolerated = {each["key"] for each in spec["tolerations"]}
        # EKS and Karpenter put no taint on spot machines by themselves.
        assert wanted - tolerated == {"eks.amazonaws.com/capacityType", "karpenter.sh/capacity-type"}
        assert "nvidia.com/gpu" in tolerated
        assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_the_served_application_is_one_that_serve_takes() -> None:
    from ray.serve.schema import ServeDeploySchema

    from mskray.serving.settings import Offer

    config = yaml.safe_load(documents(text("infra/kuberay/rayservice.yaml"))[0]["spec"]["serveConfigV2"])
    parsed = ServeDeploySchema.model_validate(config)
    application = parsed.applications[0]
    module, _, name = application.import_path.partition(":")
    assert f"def {name}(" in (ROOT / (module.replace(".", "/") + ".py")).read_text("utf-8")
    known = {*Offer.model_fields, "tokens", "audit", "store", "limits"}
    assert application.args.keys() <= known
    usual = yaml.safe_load(text("serve/config.yaml"))["applications"][0]
    assert {each.name for each in application.deployments} <= {each["name"] for each in usual["deployments"]}
    with pytest.raises(ValueError):
        ServeDeploySchema.model_validate(config | {"proxy_location": "Everywhere"})


def test_the_job_runs_a_script_and_config_of_the_image() -> None:
    job = documents(text("infra/kuberay/rayjob.yaml"))[0]
    program, script, config, *settings = job["spec"]["entrypoint"].split()
    assert program == "python"
    assert (ROOT / script.removeprefix("/app/")).is_file()
    assert (ROOT / config.removeprefix("/app/")).is_file()
    assert all("=" in setting for setting in settings)
