"""Boxes that people drew, from the two formats they come in: COCO JSON, and a YOLO text file an image.

Used by the sources `manifest` (COCO) and `grazpedwri` (YOLO). A kind of finding is the annotation's category in lower
case, or what `kinds` calls it.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mskray.cohorts.sources import Finding
from mskray.errors import UserError
from mskray.storage import Location

_MOST_JSON = 2 << 30


class CocoBoxes:
    """The boxes of a COCO file (cocodataset.org, "object detection"), in pixels of the source images.

    Args:
        kinds: category → kind of finding, where they differ.
    Raises:
        UserError: no file, or one that is not laid out like COCO.
    """

    def __init__(self, location: Location, kinds: Mapping[str, str]) -> None:
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
        # Copies of a data set move folders about: where the path is another, a file's own name is enough if unique.
        bases = Counter(name.rpartition("/")[2] for name in self._rows)
        self._bases = {name.rpartition("/")[2]: name for name in self._rows if bases[name.rpartition("/")[2]] == 1}
        self.unread = set(self._rows)

    def of(self, path: str) -> tuple[Finding, ...]:
        """Return the boxes of an image, () where the file does not know it. Raises ValueError for a broken box."""
        name = path if path in self._rows else self._bases.get(path.rpartition("/")[2])
        if name is None:
            return ()
        self.unread.discard(name)
        return tuple(Finding(kind, _checked(box, self.name)) for kind, box in self._rows[name])


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
