"""Boxes that people drew, from the two formats they come in: COCO JSON, and a YOLO text file an image.

Used by the sources `manifest` (COCO) and `grazpedwri` (YOLO). A kind of finding is the annotation's category in lower
case, or what `kinds` calls it.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mskray.cohorts.sources import Finding
from mskray.errors import UserError
from mskray.storage import Location

_MOST_JSON = 2 << 30


class CocoBoxes:
    """The boxes of a COCO file (cocodataset.org, "object detection"), in pixels of the source images.

    Args:
        kinds: category → kind of finding, where they differ.
        paths: of every image that may have boxes, below the root.
    Raises:
        UserError: no file, or one that is not laid out like COCO.
    """

    def __init__(self, location: Location, kinds: Mapping[str, str], paths: Iterable[str]) -> None:
        if not location.is_file():
            raise UserError(f"annotations {location} are not a file: give a COCO JSON file")
        content = location.read_json(_MOST_JSON)
        self.name = location.name
        try:
            categories = {each["id"]: str(each["name"]).lower() for each in content["categories"]}
            names = {each["id"]: str(each["file_name"]).replace("\\", "/") for each in content["images"]}
            self._rows: dict[str, list[tuple[str, Any]]] = {name: [] for name in names.values()}
            for each in content["annotations"]:
                kind = categories[each["category_id"]]
                self._rows[names[each["image_id"]]].append((kinds.get(kind, kind), each["bbox"]))
        except (KeyError, TypeError) as error:
            raise UserError(
                f"annotations {location} are not COCO ({type(error).__name__}: {error}): expected images, annotations "
                "with image_id, category_id and bbox, and categories"
            ) from None
        unknown = sorted(set(kinds) - set(categories.values()))
        if unknown:
            raise UserError(
                f"kinds are given for {', '.join(unknown)}, but {self.name} has the categories "
                f"{', '.join(sorted(set(categories.values())))}"
            )
        self._names = Counter(suffix for name in self._rows for suffix in _suffixes(name))
        self._whole = {suffix: name for name in self._rows for suffix in _suffixes(name)}
        self._paths = Counter(suffix for path in set(paths) for suffix in _suffixes(path))
        self.unread = set(self._rows)

    def of(self, path: str) -> tuple[Finding, ...]:
        """Return the boxes of an image, () where the file does not know it. Raises ValueError for a broken box."""
        name = path if path in self._rows else self._moved(path)
        if name is None:
            return ()
        self.unread.discard(name)
        return tuple(Finding(kind, _checked(box, self.name)) for kind, box in self._rows[name])

    def _moved(self, path: str) -> str | None:
        """The name that ends like a path, where both are the only ones that do.

        Copies of a data set move folders about, and data sets repeat file names: image1.png is in each study of MURA.
        So the longest common end decides, and an end that two paths or two names share decides nothing.
        """
        end = next((suffix for suffix in _suffixes(path) if suffix in self._names), None)
        return self._whole[end] if end and self._names[end] == self._paths[end] == 1 else None


def _suffixes(path: str) -> list[str]:
    """A path, and what is left of it without its first folder, its first two, …: the longest first."""
    words = path.split("/")
    return ["/".join(words[start:]) for start in range(len(words))]


def yolo_boxes(text: str, names: Sequence[str], kinds: Mapping[str, str]) -> tuple[Finding, ...]:
    """Read one image's YOLO file: lines of class, centre x and y, width and height as shares of the image's sides.

    Args:
        names: of the classes, in the order of their numbers, lower case.
    Returns:
        Boxes (x, y, w, h) as shares of the sides.
    Raises:
        ValueError: with the line that is none.
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            if int(words[0]) < 0:
                raise IndexError
            kind = names[int(words[0])]
            x, y, w, h = (float(word) for word in words[1:])
        except (ValueError, IndexError):
            raise ValueError(f"line {number} of its labels is not <class 0 to {len(names) - 1}> x y w h") from None
        found.append(Finding(kinds.get(kind, kind), _checked([x - w / 2, y - h / 2, w, h], f"line {number}")))
    return tuple(found)


def _checked(box: Any, where: str) -> tuple[float, float, float, float]:
    try:
        x, y, w, h = (float(value) for value in box)
    except (TypeError, ValueError):
        raise ValueError(f"{where}: its box {box!r} is not x, y, w, h") from None
    if not all(map(math.isfinite, (x, y, w, h))) or w <= 0 or h <= 0:
        raise ValueError(f"{where}: its box {box!r} has no positive size")
    return x, y, w, h
