"""The files of infra/ as the tests of them read them."""

import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml
from referencing import Registry, Resource

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
KUBERAY = INFRA / "kuberay"
KUBERNETES = "1.34"
RAY_KINDS = ("RayCluster", "RayJob", "RayService")
# KubeRay's own definitions, where somebody has them: they are no part of this repository.
CRDS = os.environ.get("MSKRAY_KUBERAY_CRDS", "")

Document = dict[str, Any]


def text(place: str) -> str:
    return (ROOT / place).read_text(encoding="utf-8")


def documents(words: str) -> list[Document]:
    return [document for document in yaml.safe_load_all(words) if document]


def manifests() -> list[tuple[str, Document]]:
    """Every document of infra/kuberay with the name of its file."""
    return [(path.name, each) for path in sorted(KUBERAY.glob("*.yaml")) for each in documents(path.read_text("utf-8"))]


def spoiled(words: str, old: str, new: str) -> str:
    """`words` with `old` replaced; a mutation that changes nothing would prove nothing."""
    assert old in words, f"{old!r} is not there to be spoiled"
    return words.replace(old, new)


@cache
def _registry() -> Registry:
    folder = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
    strict = json.loads((folder / f"v{KUBERNETES}.0-local-strict" / "_definitions.json").read_text("utf-8"))
    own = json.loads((Path(__file__).parent / "schemas" / "kuberay.json").read_text("utf-8"))
    return Registry().with_resources((each["$id"], Resource.from_contents(each)) for each in (strict, own))


def check_manifest(document: Document) -> None:
    """Raise jsonschema's ValidationError where Kubernetes or KubeRay would refuse a document, or drop a field of it."""
    if document["kind"] in RAY_KINDS:
        reference = {"$ref": f"https://mskray.invalid/kuberay.json#/$defs/{document['kind']}"}
        jsonschema.Draft202012Validator(reference, registry=_registry()).validate(document)
    else:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def crd_schema(kind: str, folder: str) -> Document:
    """KubeRay's own definition of a kind, made strict: Kubernetes would drop an unknown field without a word."""
    definition = yaml.safe_load((Path(folder) / f"ray.io_{kind.lower()}s.yaml").read_text("utf-8"))
    version = next(each for each in definition["spec"]["versions"] if each["name"] == "v1")
    schema: Document = version["schema"]["openAPIV3Schema"]
    _make_strict(schema)
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


def _make_strict(node: Any) -> None:
    if isinstance(node, list):
        for each in node:
            _make_strict(each)
    if not isinstance(node, dict):
        return
    if "properties" in node and "additionalProperties" not in node and node.get("type") == "object":
        node["additionalProperties"] = bool(node.get("x-kubernetes-preserve-unknown-fields"))
    if node.get("x-kubernetes-int-or-string"):
        node.pop("type", None)
    for each in node.values():
        _make_strict(each)


def clusters(document: Document) -> Document:
    """The specification of the Ray cluster in a document of KubeRay's."""
    spec: Document = document["spec"]
    cluster: Document = (
        spec if document["kind"] == "RayCluster" else spec.get("rayClusterSpec", spec.get("rayClusterConfig"))
    )
    return cluster


def pods(document: Document) -> Iterator[tuple[str, Document]]:
    """Each pod template of a document, with a name for messages."""
    if document["kind"] in RAY_KINDS:
        cluster = clusters(document)
        yield "head", cluster["headGroupSpec"]["template"]
        for group in cluster["workerGroupSpecs"]:
            yield group["groupName"], group["template"]
        if "submitterPodTemplate" in document["spec"]:
            yield "submitter", document["spec"]["submitterPodTemplate"]
    elif document["kind"] in ("StatefulSet", "Deployment", "Job"):
        yield document["metadata"]["name"], document["spec"]["template"]


def containers(document: Document) -> Iterator[tuple[str, Document]]:
    for name, pod in pods(document):
        for container in pod["spec"]["containers"] + pod["spec"].get("initContainers", []):
            yield f"{name}/{container['name']}", container
