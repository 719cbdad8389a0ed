"""The decoders under coverage-guided fuzzing: Atheris sees which branches a damaged file takes.

    .venv/bin/python -m pip install atheris
    .venv/bin/python tests/fuzz/decoders.py -max_total_time=600 -rss_limit_mb=2048 -timeout=10 FOLDER

Files that reached something new are kept in FOLDER, which may be empty at first; a crash, a hang and a defect leave
theirs beside it. Options are libFuzzer's. The first byte of an input chooses pictures or volumes.
"""

import sys
from contextlib import suppress
from pathlib import Path

import atheris

sys.path[:0] = [
    str(Path(__file__).parents[1]),
    *(str(Path(__file__).parents[1] / name) for name in ("serving", "imaging")),
]

with atheris.instrument_imports(include=["mskray.imaging", "mskray.serving", "pydicom", "nibabel"]):
    from mskray.imaging.decode import DecodeError, DecodeLimits, decode
    from mskray.serving.forms import Upload
    from mskray.serving.problems import Problem
    from mskray.serving.settings import Limits
    from mskray.serving.volumes import decode_volume

_PICTURE = DecodeLimits(max_bytes=1 << 20, max_pixels=1 << 20, max_frames=1)
_VOLUME = Limits(max_body=1 << 20, max_unpacked=1 << 22, max_pixels=1 << 20)


def one_input(data: bytes) -> None:
    """Anything but the decoders' own errors is a defect."""
    if data[:1] == b"V":
        with suppress(Problem):
            decode_volume([Upload(0, None, data[1:])], _VOLUME)
    else:
        with suppress(DecodeError):
            decode(data[1:], _PICTURE)


def write_seeds(folder: Path) -> None:
    """Write whole files of every kind into the folder of inputs."""
    from samples import pictures, volumes, zipped

    folder.mkdir(parents=True, exist_ok=True)
    for name, data in pictures().items():
        (folder / f"seed {name}").write_bytes(b"P" + data)
    for name, contents in volumes().items():
        (folder / f"seed {name}").write_bytes(b"V" + (contents[0] if len(contents) == 1 else zipped(contents)))


def main() -> None:
    folders = [Path(each) for each in sys.argv[1:] if not each.startswith("-")]
    if len(folders) != 1:
        raise SystemExit("give the folder of inputs")
    write_seeds(folders[0])
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
