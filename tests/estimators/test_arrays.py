"""Whatever byte of a file of arrays is damaged, it is read or refused in one line, never a traceback."""

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mskray.errors import UserError
from mskray.estimators.arrays import packed, packed_array, read_array, read_arrays
from mskray.storage import locate

VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.filterwarnings("ignore:Reading `.npy`")
@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_any_damaged_byte(tmp_path: Path, kind: str) -> None:
    whole = bytes(packed_array(VALUES) if kind == "npy" else packed({"values": VALUES}))
    read = read_array if kind == "npy" else read_arrays
    file, said = tmp_path / f"file.{kind}", []
    for index in range(len(whole)):
        for byte in (0, whole[index] ^ 1):
            file.write_bytes(whole[:index] + bytes([byte]) + whole[index + 1 :])
            try:
                read(locate(file), 10_000)
            except UserError as error:
                said.append(str(error))
    assert len(said) > len(whole) // 2
    form = re.compile(rf"{re.escape(str(locate(file)))} is damaged \(.*\): delete it and run again")
    assert [each for each in said if not form.fullmatch(each)] == []


def test_neither_objects_nor_plain_files_are_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "objects.npz", a=np.array([{}], object))
    with pytest.raises(UserError, match=r"objects\.npz is damaged \(Object arrays cannot be loaded"):
        read_arrays(locate(tmp_path / "objects.npz"), 10_000)
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        packed({"a": np.array([{}], object)})
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("notes.txt", "no array")
    with pytest.raises(UserError, match=r"text\.npz is damaged \(notes\.txt is no array\)"):
        read_arrays(locate(tmp_path / "text.npz"), 10_000)
