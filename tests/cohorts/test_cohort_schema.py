"""Cells of pixels, the columns of a shard, and the content hash."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from mskray.cohorts.schema import ABNORMALITY, ImageFormat, Shard, Task, cells, content_hash, pixels, shard_schema


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("group", [1, 3, 100])  # rows per row group: many chunks, uneven chunks, one chunk
def test_images_survive_parquet_bit_for_bit(tmp_path, dtype, group):
    images = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (7, 20, 20)).astype(dtype)
    field = shard_schema(ImageFormat(size=20, dtype=dtype, fit="pad"), (), False).field("image")
    table = pa.Table.from_arrays([cells(images)], schema=pa.schema([field]))
    pq.write_table(table, tmp_path / "images.parquet", row_group_size=group)
    read = pq.read_table(tmp_path / "images.parquet")
    result = pixels(read["image"], read.schema.field("image"))
    assert result.dtype == images.dtype
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(result, images)


def test_pixels_of_a_slice_are_those_rows():
    images = np.arange(5 * 4, dtype=np.uint8).reshape(5, 2, 2)
    field = shard_schema(ImageFormat(size=16, dtype="uint8", fit="pad"), (), False).field("image")
    field = field.with_type(pa.binary(4)).with_metadata({"shape": "[2, 2]", "dtype": "uint8"})
    np.testing.assert_array_equal(pixels(pa.chunked_array([cells(images)]).slice(1, 3), field), images[1:4])


def test_big_endian_images_are_stored_little_endian():
    images = np.arange(8, dtype=">u2").reshape(2, 2, 2)
    assert cells(images)[0].as_py() == images[0].astype("<u2").tobytes()


@pytest.mark.parametrize(("masks", "first", "last"), [(False, "image", "findings"), (True, "image", "mask")])
def test_columns_of_a_shard(masks, first, last):
    schema = shard_schema(ImageFormat(size=32, dtype="uint8", fit="pad"), (ABNORMALITY,), masks)
    assert (schema.names[0], schema.names[-1]) == (first, last)
    assert schema.field("label_abnormality").type == pa.int32()


@pytest.mark.parametrize(
    ("name", "classes"),
    [("Grade", ("a", "b")), ("grade", ("a",)), ("grade", ("a", "a")), ("grade", ("a", "")), ("", ("a", "b"))],
)
def test_tasks_that_are_none_are_refused(name, classes):
    with pytest.raises(ValidationError):
        Task(name=name, classes=classes)


def test_content_hash_follows_content_and_not_names():
    image = ImageFormat(size=32, dtype="uint8", fit="pad")
    shard = Shard(split="train", path="a", rows=1, bytes=1, sha256="x")
    base = content_hash((ABNORMALITY,), image, [shard])
    assert content_hash((ABNORMALITY,), image, [shard.model_copy(update={"path": "b"})]) == base
    assert content_hash((ABNORMALITY,), image, [shard.model_copy(update={"sha256": "y"})]) != base
    assert content_hash((), image, [shard]) != base
    assert content_hash((ABNORMALITY,), image.model_copy(update={"fit": "stretch"}), [shard]) != base
