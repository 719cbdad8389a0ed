"""infra/aws: what Ray's autoscaler and EC2's API accept; roles that may do only what they must."""

import json
import re
from copy import deepcopy
from typing import Any

import boto3
import pytest
import yaml
from botocore.validate import ParamValidator
from infra_files import INFRA, spoiled, text

CLUSTER = text("infra/aws/cluster.yaml")
ROLES = ("iam-head.json", "iam-worker.json")
# What AWS lets be named by no resource.
UNNAMED = re.compile(r"ec2:Describe\w+|ssm:UpdateInstanceInformation|ssmmessages:\w+|ecr:GetAuthorizationToken")


def check_cluster(words: str) -> dict[str, Any]:
    """What Ray makes of a cluster's YAML, which it checks as `ray up` does before it asks AWS anything."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: dict[str, Any] = prepare_config(yaml.safe_load(words))
    validate_config(prepared)
    return prepared


def api_faults(node: dict[str, Any]) -> str:
    """What EC2's RunInstances would not take of a node's config."""
    client = boto3.session.Session().client(
        "ec2", region_name="eu-central-1", aws_access_key_id="none", aws_secret_access_key="none"
    )
    shape = client.meta.service_model.operation_model("RunInstances").input_shape
    asked = {key: value for key, value in node.items() if key != "SubnetIds"}  # Ray's own: it picks one
    return str(ParamValidator().validate(asked | {"MinCount": 1, "MaxCount": 1}, shape).generate_report())


def test_ray_takes_the_cluster() -> None:
    prepared = check_cluster(CLUSTER)
    types = prepared["available_node_types"]
    assert prepared["max_workers"] >= sum(each["max_workers"] for each in types.values())
    assert types["head"]["resources"] == {"CPU": 0}
    assert all(api_faults(each["node_config"]) == "" for each in types.values())


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("cluster_name: mskray", "cluster_nam: mskray", "cluster_nam"),
        ("head_node_type: head", "head_node_type: heads", "must be one of"),
        ("max_workers: 24", "max_workers: many", "is not of type 'integer'"),
        ("  pull_before_run: true", "  pull_first: true", "pull_first"),
        ("resources: {CPU: 0}", "resources: {CPU: none}", "is not of type 'integer'"),
        ("  ssh_proxy_command: >-", "  ssh_proxy: >-", "ssh_proxy"),
        ("    min_workers: 0\n    max_workers: 16", "    min_workers: 40\n    max_workers: 16", "smaller"),
    ],
)
def test_ray_refuses_a_spoiled_cluster(old: str, new: str, said: str) -> None:
    with pytest.raises(Exception, match=said):
        check_cluster(spoiled(CLUSTER, old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("InstanceType: m7i.xlarge", "InstanceTyp: m7i.xlarge"),
        ("HttpTokens: required", "HttpToken: required"),
        ("VolumeSize: 200", "VolumeSize: much"),
        ("MarketType: spot", "Market: spot"),
    ],
)
def test_ec2_refuses_a_spoiled_node(old: str, new: str) -> None:
    types = yaml.safe_load(spoiled(CLUSTER, old, new))["available_node_types"]
    assert any(api_faults(each["node_config"]) for each in types.values())


def cluster_faults(words: str) -> list[str]:
    """What a cluster of EC2's machines leaves open."""
    config = yaml.safe_load(words)
    found = []
    if not config["provider"].get("use_internal_ips"):
        found.append("public addresses")
    if "security_group" in config["provider"]:
        found.append("Ray would open SSH to the world")
    for name, each in config["available_node_types"].items():
        node = each["node_config"]
        if not node.get("SecurityGroupIds"):
            found.append(f"{name}: Ray would make a group that opens SSH to the world")
        if node.get("MetadataOptions") != {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}:
            found.append(f"{name}: credentials for any request")
        if not all(disk["Ebs"].get("Encrypted") for disk in node["BlockDeviceMappings"]):
            found.append(f"{name}: a disk in plain text")
        wanted = "mskray-head" if name == config["head_node_type"] else "mskray-worker"
        if not node.get("IamInstanceProfile", {}).get("Arn", "").endswith(wanted):
            found.append(f"{name}: not its own role")
        if name != config["head_node_type"] and node.get("InstanceMarketOptions", {}).get("MarketType") != "spot":
            found.append(f"{name}: at the full price")
    options = " ".join(config["docker"]["run_options"])
    if "RAY_AUTH_MODE=token" not in options or "RAY_AUTH_TOKEN_PATH=/run/secrets/" not in options:
        found.append("no token")
    if re.search("RAY_AUTH_TOKEN=", words):
        found.append("the token in plain text")
    start = " ".join(config["head_start_ray_commands"])
    if "--dashboard-host=127.0.0.1" not in start or "ray-client-server-port" in start:
        found.append("the dashboard beyond the head")
    images = [config["docker"]["image"], config["docker"]["worker_image"]]
    if not all(re.search(r":\d+\.\d+\.\d+[\w.-]*$", image) for image in images):
        found.append("image without a version")
    return found


def test_nothing_is_open() -> None:
    assert cluster_faults(CLUSTER) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("use_internal_ips: true", "use_internal_ips: false", "public addresses"),
        ("      SecurityGroupIds: *group\n", "", "opens SSH"),
        ("HttpTokens: required", "HttpTokens: optional", "credentials"),
        ("Encrypted: true", "Encrypted: false", "plain text"),
        ("instance-profile/mskray-worker", "instance-profile/mskray-head", "not its own role"),
        ("MarketType: spot", "MarketType: capacity-block", "full price"),
        ("RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled", "no token"),
        ("RAY_AUTH_TOKEN_PATH=/run/secrets/ray_token", "RAY_AUTH_TOKEN=abc", "plain text"),
        ("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", "beyond the head"),
        ("mskray:0.1.0-cuda", "mskray:latest", "without a version"),
    ],
)
def test_what_is_open_is_found(old: str, new: str, said: str) -> None:
    assert any(said in fault for fault in cluster_faults(spoiled(CLUSTER, old, new)))


def policy_faults(policy: dict[str, Any]) -> list[str]:
    """What a policy grants too much, or says in a way that IAM would not take."""
    found = [] if policy.get("Version") == "2012-10-17" else ["not the grammar's version"]
    for statement in policy["Statement"]:
        name = statement.get("Sid", "?")
        if not statement.keys() <= {"Sid", "Effect", "Action", "Resource", "Condition"}:
            found.append(f"{name}: unknown key")
        if statement["Effect"] != "Allow" or not re.fullmatch(r"[A-Za-z0-9]+", name):
            found.append(f"{name}: not the grammar")
        actions, resources = (
            [each] if isinstance(each, str) else each for each in (statement["Action"], statement["Resource"])
        )
        for action in actions:
            if not re.fullmatch(r"[a-z0-9]+:[A-Za-z]+", action):
                found.append(f"{name}: {action} is more than one action")
            elif "*" in resources and not UNNAMED.fullmatch(action):
                found.append(f"{name}: {action} on anything")
        if not all(
            each == "*" or re.fullmatch(r"arn:aws:[a-z0-9]+:(REGION|):(ACCOUNT|):\S+", each) for each in resources
        ):
            found.append(f"{name}: no ARN")
        if "iam:PassRole" in actions and not statement.get("Condition"):
            found.append(f"{name}: gives roles to anybody")
        if "ec2:TerminateInstances" in actions and "ResourceTag/ray-cluster-name" not in json.dumps(statement):
            found.append(f"{name}: ends the machines of others")
    return found


@pytest.mark.parametrize("role", ROLES)
def test_a_role_may_do_only_what_it_must(role: str) -> None:
    assert policy_faults(json.loads(text(f"infra/aws/{role}"))) == []


@pytest.mark.parametrize(
    ("role", "old", "new", "said"),
    [
        ("iam-head.json", '"ec2:RunInstances"', '"ec2:*"', "more than one action"),
        ("iam-head.json", '"arn:aws:iam::ACCOUNT:role/mskray-worker"', '"*"', "iam:PassRole on anything"),
        ("iam-head.json", "aws:ResourceTag/ray-cluster-name", "aws:ResourceTag/name", "machines of others"),
        ("iam-worker.json", '"arn:aws:s3:::BUCKET/*"', '"*"', "on anything"),
        ("iam-worker.json", '"ssm:GetParameter"', '"ssm:Get*"', "more than one action"),
        ("iam-worker.json", '"arn:aws:ssm:REGION', '"arn:ssm:REGION', "no ARN"),
        ("iam-worker.json", '"Action": "ssm', '"Actions": "x", "Action": "ssm', "unknown key"),
    ],
)
def test_a_role_that_may_do_more_is_found(role: str, old: str, new: str, said: str) -> None:
    assert any(said in fault for fault in policy_faults(json.loads(spoiled(text(f"infra/aws/{role}"), old, new))))


def test_the_roles_serve_the_cluster_that_they_belong_to() -> None:
    head = text("infra/aws/iam-head.json")
    config = yaml.safe_load(CLUSTER)
    node = deepcopy(config["available_node_types"]["head"]["node_config"])
    for place in (*node["SubnetIds"], *node["SecurityGroupIds"]):
        assert place in head
    assert f'"aws:RequestTag/ray-cluster-name": "{config["cluster_name"]}"' in head
    worker = text("infra/aws/iam-worker.json")
    fetched, granted = re.findall(r"--name (/\S+)", CLUSTER), re.findall(r":parameter(/[\w/]+)", worker)
    assert sorted(fetched) == sorted(granted) == ["/mskray/hash_key", "/mskray/ray_token"]
    trust = json.loads(text("infra/aws/iam-trust.json"))["Statement"]
    assert [each["Principal"] for each in trust] == [{"Service": "ec2.amazonaws.com"}]
    assert {path.name for path in (INFRA / "aws").iterdir()} == {"cluster.yaml", "iam-trust.json", *ROLES}
