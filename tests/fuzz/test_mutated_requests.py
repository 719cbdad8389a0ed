"""Requests around damaged files, forms, headers, names and JSON: every answer is documented, and none is a defect."""

import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import pytest
from amount import COUNT, examples
from hypothesis import given
from hypothesis import strategies as st
from mutations import changed, changes
from room import Room
from samples import pictures, volumes, zipped
from serving_samples import multipart

PICTURES, VOLUMES = pictures(), volumes()
_LINK = re.compile(rb'"href":"(/v1/[^"]+)"')
_FIELDS = {"studies": "views", "batches": "studies", "pixels": "files", "spines": "files"}
_QUERIES = {
    "studies": [
        "",
        "?partial=true",
        "?partial=true&explain=grad_cam",
        "?explain=saliency&explain=grad_cam&explain_as=arrays",
        "?explain=nothing",
    ],
    "pairs": [""],
    "batches": [""],
    "spines": ["", "?explain=saliency", "?explain=hotspots&copies=2", "?copies=0"],
    "pixels": ["", "?kind=volume", "?kind=volume&index=1", "?kind=picture&index=2", "?index=-1"],
}
pytestmark = pytest.mark.timeout(300 + COUNT)


@dataclass
class Sent:
    """A request."""

    method: str
    path: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def kept_apart(name: str) -> str:
    """A word as one segment of a path, as a server hands it on."""
    return name.replace("/", "_").replace("?", "_") or "_"


texts = st.text(st.characters(codec="utf-8"), max_size=40)
words = texts | st.sampled_from(
    ["..", "%2e%2e", "%00", "\0", "0" * 32, "f" * 32, "../../etc/passwd", "a.png", "KNEE", "𝒳"]
)
header_values = st.text(st.characters(codec="latin-1"), max_size=60)
keys = texts | st.just("ensemble")
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def files(draw: st.DrawFn, known: dict[str, Any]) -> list[bytes]:
    """Some whole or damaged files, sometimes in a zip that may be damaged too."""
    found: list[bytes] = []
    for name in draw(st.lists(st.sampled_from(sorted(known)), min_size=1, max_size=2)):
        each = known[name]
        held = list(each) if isinstance(each, list) else [each]
        for place in draw(st.lists(st.integers(0, len(held) - 1), max_size=2, unique=True)):
            held[place] = changed(held[place], draw(changes()))
        found += held
    if draw(st.integers(0, 3)) == 0:
        found = [zipped(found, draw(st.integers(1, 3)))]
        if draw(st.booleans()):
            found = [changed(found[0], draw(changes()))]
    return found


@st.composite
def uploads(draw: st.DrawFn) -> Sent:
    """A form of files; its bytes, its content type, its length and its headers may be wrong as well."""
    route = draw(st.sampled_from(sorted(_QUERIES)))
    query = draw(st.sampled_from(_QUERIES[route]))
    volume = route == "spines" or "volume" in query
    held = draw(files(VOLUMES if volume else PICTURES))
    if route == "batches" and draw(st.integers(0, 3)):
        held = [zipped(held, draw(st.integers(1, 3)))]
    name = draw(words) if draw(st.integers(0, 4)) == 0 else "file"
    if route == "pairs":
        parts = [("before", (name, held[0])), ("after", (name, held[-1]))]
    else:
        parts = [(_FIELDS[route], (name, each)) for each in held]
    part = draw(st.none() | words) if route in ("studies", "pairs", "batches") else None
    body, kind = multipart(parts, None if part is None else {"body_part": part})
    headers = {"content-type": kind}
    odd = draw(st.integers(0, 9))
    if odd == 0:
        body = changed(body, draw(changes()))
    elif odd == 1:
        headers["content-type"] = changed(kind.encode(), draw(changes(2))).decode("latin-1")
    elif odd == 2:
        headers["content-length"] = draw(header_values | st.integers().map(str))
    elif odd == 3:
        headers[draw(st.sampled_from(["x-request-id", "authorization", "range", "expect"]))] = draw(header_values)
    if draw(st.integers(0, 5)) == 0:
        headers["idempotency-key"] = draw(header_values | st.sampled_from(["k" * 8, '"quoted-key"', "k" * 129]))
    return Sent("POST", f"/v1/{route}{query}", body, headers)


@st.composite
def others(draw: st.DrawFn) -> Sent:
    """Ids, names, methods, JSON."""
    match draw(st.integers(0, 4)):
        case 0:
            return Sent("GET", f"/v1/jobs/{kept_apart(draw(words))}")
        case 1:
            return Sent("GET", f"/v1/results/{kept_apart(draw(words))}/{kept_apart(draw(words))}")
        case 2:
            value = draw(json_values | st.fixed_dictionaries({"ensemble": words | st.just("\ud800")}))
            body = changed(json.dumps(value).encode(), draw(changes(2)) if draw(st.booleans()) else [])
            return Sent("PUT", "/v1/models", body, {"content-type": "application/json"})
        case 3:
            method = draw(st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"]))
            return Sent(method, "/" + quote(draw(words)), draw(st.binary(max_size=40)))
        case _:
            route, query = draw(st.sampled_from(sorted(_QUERIES))), quote(draw(words), safe="=&")
            body, kind = multipart([(_FIELDS.get(route, "before"), ("a", PICTURES["png"]))])
            return Sent("POST", f"/v1/{route}?{query}", body, {"content-type": kind})


def sends(room: Room, sent: Sent) -> None:
    """Send it in pieces, as it would come, and follow the links of the answer."""
    third = len(sent.body) // 3 + 1
    pieces = [sent.body[at : at + third] for at in range(0, len(sent.body), third)]
    answered = room.ask(sent.method, sent.path, pieces, sent.headers)
    for href in set(_LINK.findall(answered.body)):
        assert room.ask("GET", href.decode(), [], {}).status == 200


@examples(small=60, share=0.7)
@given(sent=uploads())
def test_damaged_uploads(room: Room, sent: Sent) -> None:
    sends(room, sent)


@examples(small=60, share=0.2)
@given(sent=others())
def test_odd_names_methods_and_json(room: Room, sent: Sent) -> None:
    sends(room, sent)


@pytest.mark.parametrize("kind", sorted(PICTURES))
def test_whole_pictures_are_answered(room: Room, kind: str) -> None:
    """What is damaged in the other tests is no nonsense to begin with."""
    body, content_type = multipart([("files", ("a", PICTURES[kind]))])
    assert room.ask("POST", "/v1/pixels", [body], {"content-type": content_type}).status == 200


@pytest.mark.parametrize("kind", sorted(VOLUMES))
def test_whole_volumes_are_answered(room: Room, kind: str) -> None:
    body, content_type = multipart([("files", ("a", each)) for each in VOLUMES[kind]])
    assert room.ask("POST", "/v1/pixels?kind=volume", [body], {"content-type": content_type}).status == 200
