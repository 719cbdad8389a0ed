"""infra/docker: pinned, hashed, nobody's root."""

import json
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest
from infra_files import ROOT, spoiled, text

DOCKERFILE = text("infra/docker/Dockerfile")
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
