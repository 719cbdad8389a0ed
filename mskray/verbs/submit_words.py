"""What a submitted verb is given: which of its words are files to send along, and which would not do on a cluster.

A job runs on another machine, in a copy of a folder that Ray deletes. Config files are sent along; everything else is
read and written by the cluster's nodes, so that a place of this machine is refused here, where the mistake was made.
Words and configs are kept by the cluster and shown by its dashboard: secrets are refused, too.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

from mskray.config import apply_overrides, read_yaml
from mskray.errors import UserError

CONFIGURED = ("train", "tune", "spine-table")
"""Verbs whose first word is a config that names `cohort` and `out`."""
_CONFIGS = (".yaml", ".yml", ".json", ".toml")
_MOST_BYTES = 4 << 20
_OUTPUTS = ("out", "names", "sheet", "overlay", "results")
_PLACES = (*_OUTPUTS, "cohort", "calibrate", "remove_flags", "add", "bundle", "weights", "corners")
_KEY = re.compile(r"([a-z_]+(?:\.[a-z0-9_]+)*)=(.*)", re.DOTALL)
_SECRET_KEY = r"(?:pass(?:word|wd|phrase)|secret\w*|\w*access_key\w*|api_?key|\w*_token)"  # nosec B105 # a pattern
_SECRETS = (
    re.compile(r"://[^/\s:@]*:[^/\s@]+@"),
    re.compile(r"\bA(?:KIA|SIA)[0-9A-Z]{16}\b"),
    re.compile(r"[?&](?:X-Amz-Signature|Signature|sig)=\w", re.IGNORECASE),
    re.compile(rf"(?:^|[\s.\-,{{\"']){_SECRET_KEY}[\"']?\s*[:=]\s*[\"']?\S", re.IGNORECASE),
)


@dataclass(frozen=True)
class Given:
    """Words as the job gets them.

    Args:
        words: behind the verb; those that named a file that is sent along name it in the job's folder.
        files: path in the job's folder → content.
    """

    words: tuple[str, ...]
    files: Mapping[str, bytes]


def read_words(verb: str, words: Sequence[str], params: Mapping[str, Any]) -> Given:
    """Find the config files among a verb's words, and refuse what would not do.

    Args:
        words: behind the verb.
        params: the same as the verb's command line reads them, with its defaults; positional ones are places, too.
    Raises:
        UserError: a relative output, a file or folder of this machine, what looks like a secret.
    """
    _check_secrets("the command line", " ".join(words))
    if params.get("local"):
        raise UserError(
            "--local trains in one process, beside the cluster's workers: leave it out of what is submitted"
        )
    for name in _OUTPUTS:
        for place in _texts(params.get(name)):
            _check_output(f"--{name.replace('_', '-')} {place}", place)
    for option, place in pairwise(words):  # of a subcommand, such as `tune promote`
        if option.removeprefix("--") in _OUTPUTS and option.startswith("--"):
            _check_output(f"{option} {place}", place)
    files: dict[str, bytes] = {}
    given = [_sent(word, params, files) for word in words]
    if verb in CONFIGURED and (config := next((word for word in words if _is_config(word)), None)):
        overrides = [word for word in words if word != config and _KEY.fullmatch(word)]
        data = apply_overrides(read_yaml(config), overrides)
        if isinstance(data.get("out"), str):
            _check_output(f"out={data['out']}", data["out"])
        if isinstance(data.get("cohort"), str) and _is_relative(data["cohort"]):
            raise _not_there(f"cohort={data['cohort']}")
    return Given(tuple(given), files)


def _sent(word: str, params: Mapping[str, Any], files: dict[str, bytes]) -> str:
    """The word for the job; a config that it names is put among the files."""
    key = _KEY.fullmatch(word)
    option = re.fullmatch(r"(--[a-z][a-z-]*=)(.*)", word, re.DOTALL)
    front, value = (f"{key[1]}=", key[2]) if key else (option[1], option[2]) if option else ("", word)
    if key and re.fullmatch(r"(.*\.)?out", key[1]):
        _check_output(word, value)
    if value and not value.startswith("-") and "://" not in value:
        if _is_config(value):
            return front + _taken(value, files)
        if _is_place(value, bool(key), params) and _is_relative(value) and Path(value).expanduser().exists():
            if value in _texts(params.get("configs")):  # a folder of presets
                return front + _taken_folder(value, files)
            raise _not_there(word)
    return word


def _is_place(value: str, is_key: bool, params: Mapping[str, Any]) -> bool:
    """Whether a word is meant as a place: `--split test` is not, though a folder of this name may lie here."""
    if is_key:
        return "/" in value
    named = (*_PLACES, "configs", "source", "model", "searches", "bundles", "cohort", "old", "new", "words", "uri")
    return any(value in _texts(params.get(name)) for name in named)


def _is_config(word: str) -> bool:
    return word.lower().endswith(_CONFIGS) and Path(word).expanduser().is_file()


def _taken(word: str, files: dict[str, bytes]) -> str:
    path = Path(word).expanduser()
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UserError(f"{word} has more than {_MOST_BYTES >> 20} MiB: put it in a bucket and name it there")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{word} cannot be read: {error.strerror}") from None
    _check_secrets(word, content.decode(errors="replace"))
    inside = not path.is_absolute() and ".." not in path.parts and not word.startswith("~")
    name = path.as_posix() if inside else f"given/{sha256(content).hexdigest()[:8]}/{path.name}"
    files[name] = content
    return name


def _taken_folder(word: str, files: dict[str, bytes]) -> str:
    for file in sorted(Path(word).glob("*.yaml")):
        _taken(str(file), files)
    return word


def _check_output(told: str, place: str) -> None:
    if _is_relative(place):
        raise UserError(
            f"{told} would be lost: a submitted job runs in a copy of your folder that Ray deletes; give an absolute "
            "URI such as s3://bucket/key"
        )


def _not_there(told: str) -> UserError:
    return UserError(
        f"{told} is on this machine, and the job runs on the cluster's: give a bucket (s3://…), or the whole path of a "
        "folder that all nodes share"
    )


def _is_relative(place: str) -> bool:
    return "://" not in place and not place.startswith("/")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _texts(each)


def _check_secrets(where: str, text: str) -> None:
    if any(pattern.search(text) for pattern in _SECRETS):
        raise UserError(
            f"{where} holds what looks like a secret, and the cluster shows what it is sent: set it on the nodes "
            "(AWS's variables and config files, an instance role), and leave it out here"
        )
