"""No secret lies in the repository, and none is made by what is not meant for secrets."""

import ast
import math
import re
import subprocess
from collections import Counter

import pytest
from infra_files import ROOT

# Words that are a secret by their form, whatever stands beside them.
FORMS = re.compile(
    r"(?:AKIA|ASIA)[0-9A-Z]{16}"
    r"|-----BEGIN (?:RSA |EC |OPENSSH |ENCRYPTED )?PRIVATE KEY-----"
    r"|gh[pousr]_[A-Za-z0-9]{36}|hf_[A-Za-z0-9]{30,}|xox[abprs]-[0-9A-Za-z-]{20,}|glpat-[\w-]{20}"
    r"|eyJ[\w-]{20,}\.eyJ[\w-]{20,}\.[\w-]{20,}"
)
NAMED = re.compile(
    r"""(?i)(?:token|passw(?:or)?d|secret(?:_?access)?_?key|api_?key|credential)["']?\s*[:=]\s*["']?([^\s"'#,;}]{12,})"""
)
# What stands behind such a name and is none: references, paths, placeholders, code.
REFERENCE = re.compile(r"^(?:/|\$|<|\{|~|file:|s3:|\.\.\.|mskray-|secrets?[./_]|os\.|str\b)|[(\[<]|_path$|_file$")


def secrets_in(words: str) -> list[str]:
    """What looks like a secret in a text: known forms, and values of telling names that nobody would make up."""
    named = [value for value in NAMED.findall(words) if not REFERENCE.search(value) and entropy(value) > 3.4]
    return FORMS.findall(words) + [value for value in named if re.search(r"\d", value)]


def entropy(value: str) -> float:
    """Shannon's, in bits a character: words have about 3, random hexadecimal digits 4."""
    return -sum(many / len(value) * math.log2(many / len(value)) for many in Counter(value).values())


def test_no_file_of_infra_holds_a_secret() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "infra", "jobs", "serve", "Makefile", ".ci"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert "infra/compose/compose.yaml" in listed
    for name in listed:
        path = ROOT / name
        if path.suffix in (".png", ".lock") or not path.is_file() or path.name == "package-lock.json":
            continue
        assert secrets_in(path.read_text(encoding="utf-8")) == [], name


@pytest.mark.parametrize(
    "words",
    [
        "aws_access_key_id = " + "AKIA" + "Q3EGRZ7WXJ5YTH2M",
        "-----BEGIN " + "PRIVATE KEY-----",
        "RAY_AUTH_TOKEN: 9f2c4be17a03d5e68b1f",
        'password="Tr0ub4dor&3-x9Kq"',
        "secret_access_key = kq83nmZ0pWx4Rt7LbY2v",
        "token=" + "ghp" + "_" + "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0eF3hI6",
    ],
)
def test_a_secret_is_found(words: str) -> None:
    assert secrets_in(words)


@pytest.mark.parametrize(
    "words",
    [
        "RAY_AUTH_TOKEN_PATH: /run/secrets/ray_token",
        "password: {secretName: mskray-redis}",
        "export MSKRAY_SERVE_TOKEN=$(openssl rand -hex 32)",
        "credentials_file: /run/secrets/ray_token",
        "secretName: mskray-ray-token",
    ],
)
def test_a_reference_is_none(words: str) -> None:
    assert secrets_in(words) == []


def test_secrets_come_from_the_module_of_that_name() -> None:
    """pyproject.toml excuses bandit's B311, which would say so: Python's random numbers can be foretold."""
    for folder in ("mskray/serving", "mskray/client", "infra"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random":
                    assert node.attr == "SystemRandom", f"{path.name}:{node.lineno}"
