"""The CSV that brings any data: columns, label spaces, rows that cannot be used, and files that are no such CSV."""

import pytest
from cohort_layouts import png

from mskray.cohorts.sources import Item, get_source
from mskray.errors import UserError
from mskray.storage import locate

SOURCE = get_source("manifest")


def listing(folder, text, encoding="utf-8", **options):
    for name in ("a.png", "b.png", "c.png", "sub/d.png"):
        png(folder / name)
    (folder / "images.csv").write_bytes(text.encode(encoding))
    place = locate(folder / "images.csv")
    checked = SOURCE.Options(**options)
    found = list(SOURCE.items(place, checked))
    return SOURCE.tasks(place, checked), found


def test_all_columns(tmp_path):
    tasks, (item,) = listing(
        tmp_path,
        "path,patient_id,study_id,body_part,view,view_index,laterality,split,label,age\n"
        "sub/d.png,p1,s1,wrist,pa,3,left,val,abnormal,44\n",
    )
    assert [(task.name, task.classes) for task in tasks] == [("abnormality", ("normal", "abnormal"))]
    assert (item.path, item.patient_id, item.study_id, item.body_part) == ("sub/d.png", "p1", "s1", "WRIST")
    assert (item.view, item.view_index, item.laterality, item.split) == ("PA", 3, "L", "validation")
    assert (dict(item.labels), item.row) == ({"abnormality": 1}, 2)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("path,patient_id\na.png,p\n", "utf-8-sig"),
        ("PATH , Patient_ID\r\na.png , p\r\n", "utf-8"),
        ('"path","patient_id"\n"a.png","p"\n\n', "utf-8"),
        ("patient_id,path\np,./sub/../a.png\n", "utf-8"),
        ('path,patient_id,note\na.png,p,"two\nlines, and ""quotes"""\n', "utf-8"),
    ],
)
def test_ways_to_write_the_same_row(tmp_path, text, encoding):
    tasks, (item,) = listing(tmp_path, text, encoding)
    assert tasks == ()
    assert (item.path, item.patient_id, item.study_id, item.body_part) == ("a.png", "p", "UNKNOWN", "UNKNOWN")


@pytest.mark.parametrize(
    ("column", "values", "options", "classes", "labels"),
    [
        ("label", ["0", "1", ""], {}, ("normal", "abnormal"), [0, 1, None]),
        ("label", ["Normal", "ABNORMAL", "1"], {}, ("normal", "abnormal"), [0, 1, 1]),
        ("label_grade", ["mild", "severe", "mild"], {}, ("mild", "severe"), [0, 1, 0]),
        ("label_grade", ["10", "9", "2"], {}, ("2", "9", "10"), [2, 1, 0]),
        ("label_grade", ["2", "0", "KL1"], {"grade": ["KL0", "KL1", "KL2"]}, ("KL0", "KL1", "KL2"), [2, 0, 1]),
    ],
)
def test_label_spaces(tmp_path, column, values, options, classes, labels):
    text = f"path,patient_id,{column}\n" + "".join(
        f"{name}.png,p,{value}\n" for name, value in zip("abc", values, strict=True)
    )
    (task,), items = listing(tmp_path, text, classes=options)
    assert task.classes == classes
    assert [item.labels[task.name] for item in items] == labels


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("missing.png,p,,", "there is no such file"),
        (",p,,", "no path"),
        ("a.png,,,", "no patient_id"),
        ("../a.png,p,,", "path is not inside"),
        ("/etc/passwd,p,,", "path is not inside"),
        ("s3://other/a.png,p,,", "path is not inside"),
        ("a.png,p,maybe,", "abnormality 'maybe' is none of normal, abnormal"),
        ("a.png,p,2,", "abnormality '2' is none of normal, abnormal"),
        ("a.png,p,,holdout", "split 'holdout' is none of"),
        ("b.png,p,,", "listed more than once"),
        ("a.png,p,,,,", "6 values for 4 columns"),
    ],
)
def test_a_row_that_cannot_be_used_is_rejected_alone(tmp_path, row, reason):
    _, found = listing(tmp_path, f"path,patient_id,label,split\nb.png,p,1,train\n{row}\nc.png,p,0,\n")
    items = [item.path for item in found if isinstance(item, Item)]
    (rejected,) = [item for item in found if not isinstance(item, Item)]
    assert items == ["b.png", "c.png"]
    assert rejected.reason.startswith(reason)
    assert rejected.row == 3


def test_views_without_a_number_count_in_order_of_rows(tmp_path):
    _, items = listing(tmp_path, "path,patient_id,study_id\na.png,p,s\nb.png,q,s\nc.png,p,s\n")
    assert [(item.patient_id, item.view_index) for item in items] == [("p", 0), ("q", 0), ("p", 1)]


def test_absolute_paths_inside_the_root(tmp_path):
    text = f"path,patient_id\n{tmp_path}/a.png,p\n{locate(tmp_path / 'sub' / 'd.png').uri},p\n"
    assert [item.path for item in listing(tmp_path, text)[1]] == ["a.png", "sub/d.png"]


def test_paths_that_lead_out_of_the_root_and_in_again(tmp_path):
    text = f"path,patient_id\n{tmp_path}/../{tmp_path.name}/a.png,p\n../{tmp_path.name}/b.png,q\n"
    assert [item.path for item in listing(tmp_path, text)[1]] == ["a.png", "b.png"]


def test_paths_relative_to_a_given_root(tmp_path):
    png(tmp_path / "images" / "x.png")
    _, (item,) = listing(tmp_path, "path,patient_id\nx.png,p\n", root=str(tmp_path / "images"))
    assert item.path == "x.png"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"image,patient\na.png,p\n", r"lacks the column\(s\) path, patient_id: its first line has image, patient"),
        (b"path;patient_id\na.png;p\n", "its first line has path;patient_id"),
        (b"", "its first line has nothing"),
        (b"path,patient_id\n\xff\xfe\n", "is not UTF-8 text"),
        (b"path,path,patient_id\n", r"column\(s\) path more than once"),
        (b'path,patient_id\n"a.png,p\n', "line 2 is not valid CSV"),
        (b"path,patient_id,label_x\na.png,p,1\nb.png,p,1\n", "has 1 different values"),
        (b"path,patient_id,label_KL Grade\na.png,p,1\nb.png,p,2\n", "lower case"),
    ],
)
def test_a_file_that_is_no_manifest_is_one_line(tmp_path, data, message):
    (tmp_path / "images.csv").write_bytes(data)
    with pytest.raises(UserError, match=message):
        SOURCE.tasks(locate(tmp_path / "images.csv"), SOURCE.Options())


def test_classes_for_a_column_that_is_not_there(tmp_path):
    (tmp_path / "images.csv").write_text("path,patient_id\na.png,p\n")
    with pytest.raises(UserError, match="no column label_grade"):
        SOURCE.tasks(locate(tmp_path / "images.csv"), SOURCE.Options(classes={"grade": ["a", "b"]}))


def test_a_folder_is_no_manifest(tmp_path):
    with pytest.raises(UserError, match="reads a CSV"):
        SOURCE.root(locate(tmp_path), SOURCE.Options())
