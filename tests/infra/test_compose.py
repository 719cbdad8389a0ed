"""infra/compose: services that may do what they must, on loopback alone; secrets that are new, closed and kept."""

import os
import re
import shlex
import stat
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
import yaml
from infra_files import INFRA, ROOT, Document, spoiled, text

from infra.compose.make_secrets import make

DOCKERFILE = text("infra/docker/Dockerfile")
COMPOSE = text("infra/compose/compose.yaml")
VERSION = tomllib.loads(text("pyproject.toml"))["project"]["version"]
SCRIPTS = Path(sysconfig.get_path("scripts"))


def compose_config(words: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    place = folder / "infra" / "compose"
    make(place / "secrets")
    (place / "compose.yaml").write_text(words, encoding="utf-8")
    command = [
        "docker-compose",
        "--project-directory",
        str(place),
        "-f",
        str(place / "compose.yaml"),
        "config",
        "--quiet",
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]})


@pytest.mark.system("docker-compose")
def test_docker_compose_takes_the_file(tmp_path: Path) -> None:
    done = compose_config(COMPOSE, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.system("docker-compose")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    restart: unless-stopped\n", "    restarts: unless-stopped\n"),
        ("condition: service_healthy}", "condition: healthy}"),
        ('volumes: ["store:/data"]', 'volumes: ["stores:/data"]'),
    ],
)
def test_docker_compose_refuses_a_spoiled_file(old: str, new: str, tmp_path: Path) -> None:
    assert compose_config(spoiled(COMPOSE, old, new), tmp_path).returncode != 0


def compose_faults(words: str) -> list[str]:
    """What a service of a compose file may do that it need not."""
    file: Document = yaml.safe_load(words)
    found = []
    for name, service in file["services"].items():
        found += [
            f"{name}: {port} beyond loopback"
            for port in service.get("ports", [])
            if not re.fullmatch(r"127\.0\.0\.1:\d+:\d+", str(port))
        ]
        for section in ("networks", "secrets"):
            lost = set(service.get(section, [])) - file[section].keys()
            found += [f"{name}: {section} has no {each}" for each in lost]
        if service.get("privileged") or service.get("network_mode") or service.get("cap_add"):
            found.append(f"{name}: more than its own")
        if service.get("cap_drop") != ["ALL"] or service.get("security_opt") != ["no-new-privileges:true"]:
            found.append(f"{name}: keeps privileges")
        if not service.get("read_only"):
            found.append(f"{name}: may write to its image")
        if str(service.get("user", "0")).split(":")[0] in ("0", "root"):
            found.append(f"{name}: root")
        if "mem_limit" not in service:
            found.append(f"{name}: without limit")
        if not re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+[\w.-]*", service["image"]):
            found.append(f"{name}: image without a version")
        for volume in service.get("volumes", []):
            if volume.startswith((".", "/")) and not volume.endswith(":ro"):
                found.append(f"{name}: writes to {volume}")
            if "docker.sock" in volume:
                found.append(f"{name}: the engine's socket")
        for key, value in service.get("environment", {}).items():
            if re.search("TOKEN|PASSWORD|SECRET|KEY", key) and not str(value).startswith("/run/secrets/"):
                found.append(f"{name}: {key} in plain text")
        starts_ray = "ray start" in " ".join(service.get("command", []))
        if starts_ray and service["environment"].get("RAY_AUTH_MODE") != "token":
            found.append(f"{name}: Ray without a token")
    if not file["networks"]["ray"].get("internal"):
        found.append("the network of the nodes has a way out")
    found += [f"secret {name} is no file" for name, each in file["secrets"].items() if set(each) != {"file"}]
    return found


def test_services_may_do_only_what_they_must() -> None:
    assert compose_faults(COMPOSE) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("127.0.0.1:8265:8265", "8265:8265", "beyond loopback"),
        ("127.0.0.1:5000:5000", "0.0.0.0:5000:5000", "beyond loopback"),
        ("RAY_AUTH_MODE: token", "RAY_AUTH_MODE: disabled", "Ray without a token"),
        ('    user: "472:472"\n', '    user: "472:472"\n    privileged: true\n', "more than its own"),
        ("networks: [ray, edge]", "networks: [ray, outside]", "networks has no outside"),
        ("secrets: [grafana_password]", "secrets: [password]", "secrets has no password"),
        ("cap_drop: [ALL]", "cap_drop: [NET_RAW]", "keeps privileges"),
        ("read_only: true", "read_only: false", "may write"),
        ('user: "1000:1000"', 'user: "0:0"', "root"),
        ("mem_limit: 2g", "cpus: 1", "without limit"),
        ("prom/prometheus:v3.5.0", "prom/prometheus:latest", "image without a version"),
        ("rules.yml:ro", "rules.yml", "writes to"),
        ("GF_SECURITY_ADMIN_PASSWORD__FILE: /run/secrets/grafana_password", "GF_SECURITY_ADMIN_PASSWORD: a", "plain"),
        ("internal: true", "internal: false", "way out"),
        ("ray_token: {file: secrets/ray_token}", "ray_token: {external: true}", "is no file"),
    ],
)
def test_a_service_that_may_do_more_is_found(old: str, new: str, said: str) -> None:
    assert any(said in fault for fault in compose_faults(spoiled(COMPOSE, old, new)))


def test_what_compose_refers_to_is_there(tmp_path: Path) -> None:
    file = yaml.safe_load(COMPOSE)
    made = {path.name for path in make(tmp_path / "secrets")}
    named = {Path(each["file"]).name for each in file["secrets"].values()}
    named |= {Path(each).name for service in file["services"].values() for each in service.get("env_file", [])}
    assert named == made
    for name, service in file["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in file["volumes"] or (INFRA / "compose" / source).exists(), volume
        image, _, tag = service["image"].partition(":")
        if image == "mskray":
            assert tag == f"{VERSION}-{service['build']['target']}", name
            assert f" AS {service['build']['target']}\n" in DOCKERFILE
            for volume in service.get("volumes", []):
                assert f"install -d -o 1000 -g 1000 {volume.split(':')[1]}\n" in DOCKERFILE


@pytest.mark.parametrize("service", ["head", "worker-1"])
def test_ray_start_knows_every_option(service: str) -> None:
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    words = shlex.split(" ".join(yaml.safe_load(COMPOSE)["services"][service]["command"]).partition("ray start ")[2])
    assert words
    assert {word.split("=")[0] for word in words} <= known


def test_the_head_tells_the_address_at_which_workers_reach_it() -> None:
    """With a second network, which has a way out, Ray would take the address there."""
    services = yaml.safe_load(COMPOSE)["services"]
    names = services["head"]["networks"]["ray"]["aliases"]
    assert all(service["networks"] == ["ray"] for name, service in services.items() if name.startswith("worker"))
    asked = re.search(r'--node-ip-address="\$\$\(getent hosts (\S+) ', services["head"]["command"][2])
    assert asked is not None
    assert asked[1] in names
    assert not services["head"]["networks"]["edge"]


@pytest.mark.parametrize(
    ("service", "asked"),
    [
        ("store", ["weed", "server", "-h"]),
        pytest.param("mlflow", ["mlflow", "server", "--help"], marks=pytest.mark.slow),
    ],
)
def test_a_program_knows_every_option(service: str, asked: list[str]) -> None:
    done = subprocess.run([str(SCRIPTS / asked[0]), *asked[1:]], capture_output=True, text=True, check=False)
    known = set(re.findall(r"(?m)^\s*(?:-\w, )?(--?[\w.-]+)", done.stdout + done.stderr))
    used = {word.split("=")[0] for word in yaml.safe_load(COMPOSE)["services"][service]["command"][2:]}
    assert used <= known, used - known


def test_secrets_are_new_closed_and_kept(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    first = make(one)
    assert len(make(two)) == len(first) == 5
    assert stat.S_IMODE(one.stat().st_mode) == 0o700
    for path in first:
        assert stat.S_IMODE(path.stat().st_mode) == 0o444
        assert path.read_text() != (two / path.name).read_text()
        assert len(path.read_text()) >= 32
    before = {path.name: path.read_text() for path in first}
    assert make(one) == []
    (one / "s3_identities.json").unlink()
    assert {path.name for path in make(one)} == {"aws_credentials", "s3_identities.json"}
    assert (one / "ray_token").read_text() == before["ray_token"]
    key = re.search("aws_secret_access_key = (.+)", (one / "aws_credentials").read_text())
    assert key is not None
    assert key[1] != re.search("aws_secret_access_key = (.+)", before["aws_credentials"])[1]  # type: ignore[index]
    assert key[1] in (one / "s3_identities.json").read_text()


def test_git_never_takes_the_secrets() -> None:
    done = subprocess.run(["git", "check-ignore", "-q", "infra/compose/secrets/ray_token"], cwd=ROOT, check=False)
    assert done.returncode == 0


def test_making_secrets_prints_none(tmp_path: Path) -> None:
    command = [sys.executable, str(INFRA / "compose" / "make_secrets.py"), "--out", str(tmp_path / "made")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "ray_token" in said
    assert (tmp_path / "made" / "ray_token").read_text() not in said
