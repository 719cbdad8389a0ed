"""Locations: what a user may write, and what both stores (disk, SeaweedFS) must do alike."""

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mskray.errors import UserError
from mskray.storage import Location, check_access, locate

ODD_NAMES = [
    "with space.png",
    "größe-膝.png",
    "a+b.png",
    "100%.png",
    "%20.png",
    "a#b.png",
    "a?b=c&d.png",
    "quote'\".png",
    "~tilde.png",
    "semi;colon:.png",
    ".hidden",
    "deep/er/file.png",
]


@pytest.fixture(params=["disk", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    return locate(tmp_path / "place") if request.param == "disk" else request.getfixturevalue("s3_folder")


@pytest.mark.parametrize(
    ("given", "uri", "path"),
    [
        ("s3://bucket", "s3://bucket", "bucket"),
        ("s3://bucket/", "s3://bucket", "bucket"),
        ("s3://bucket/a/b", "s3://bucket/a/b", "bucket/a/b"),
        ("s3://bucket/a/b//", "s3://bucket/a/b", "bucket/a/b"),
        ("S3://bucket/A", "s3://bucket/A", "bucket/A"),
        ("s3://bucket/a b%20#?+ü", "s3://bucket/a b%20#?+ü", "bucket/a b%20#?+ü"),
        ("file:///data/x", "file:///data/x", "/data/x"),
        ("file://localhost/data/x/", "file:///data/x", "/data/x"),
        ("file:///data/a%20b%25", "file:///data/a%20b%25", "/data/a b%"),
        ("file:///data/a#b", "file:///data/a%23b", "/data/a#b"),
        ("/data//x/../y/", "file:///data/y", "/data/y"),
        ("/data/a b%20", "file:///data/a%20b%2520", "/data/a b%20"),
        (Path("/data/x"), "file:///data/x", "/data/x"),
        ("/", "file:///", "/"),
    ],
)
def test_locate_normalises(given: str | Path, uri: str, path: str) -> None:
    location = locate(given)
    assert (location.uri, str(location), location.path) == (uri, uri, path)
    assert locate(location) == location == locate(location.uri)


def test_relative_paths_and_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/reader")
    assert locate("a/../b").path == str(tmp_path / "b")
    assert locate(".").path == str(tmp_path)
    assert locate("~/knees").path == "/home/reader/knees"
    assert locate(Path("http://x")).path == str(tmp_path / "http:/x")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("", "empty path"),
        ("  ", "empty path"),
        ("a\0b", "empty path"),
        ("http://host/x", "cannot read http://host/x: give s3://"),
        ("gs://bucket/x", "give s3://bucket/key"),
        ("s3a://bucket/x", "give s3://bucket/key"),
        ("s3:bucket/x", "give s3://bucket/key"),
        ("s3:/bucket/x", "give s3://bucket/key"),
        ("file:/x", "file:///path"),
        ("s3://", "names no valid bucket"),
        ("s3:///key", "names no valid bucket"),
        ("s3://my bucket/key", "names no valid bucket"),
        ("s3://bucket//key", "empty, '.' or '..' folder"),
        ("s3://bucket/a/../key", "empty, '.' or '..' folder"),
        ("file://host/x", "another machine"),
        ("file://x", "another machine"),
    ],
)
def test_locate_refuses(given: str, says: str) -> None:
    with pytest.raises(UserError) as error:
        locate(given)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("base", "parts", "uri"),
    [
        ("s3://bucket", ["a", "b.png"], "s3://bucket/a/b.png"),
        ("s3://bucket/x", ["a/b/"], "s3://bucket/x/a/b"),
        ("s3://bucket/x", ["", "./a"], "s3://bucket/x/a"),
        ("s3://bucket/x", [], "s3://bucket/x"),
        ("s3://bucket/x", ["a%20b #+"], "s3://bucket/x/a%20b #+"),
        ("/data", ["a b", "100%"], "file:///data/a%20b/100%25"),
        ("/", ["a"], "file:///a"),
    ],
)
def test_join(base: str, parts: list[str], uri: str) -> None:
    joined = locate(base).join(*parts)
    assert joined == locate(uri)
    assert joined.name == joined.path.split("/")[-1]


@pytest.mark.parametrize("part", ["/etc/passwd", "../x", "a/../../x", "a\0b"])
@pytest.mark.parametrize("base", ["s3://bucket/x", "/data"])
def test_join_stays_below(base: str, part: str) -> None:
    with pytest.raises(UserError, match="does not lie below"):
        locate(base).join(part)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_round_trip(folder: Location, name: str) -> None:
    file = folder.join(name)
    file.write_bytes(name.encode())
    assert [entry.path for entry in folder.walk()] == [name]
    assert file.read_bytes() == name.encode()
    assert locate(file.uri).is_file()
    with file.filesystem.open_input_file(file.path) as stream:
        assert stream.read() == name.encode()
    file.delete()
    assert not file.exists()


def test_write_read_replace_delete(folder: Location) -> None:
    file = folder.join("a/b.bin")
    assert not file.exists()
    file.write_bytes(b"first and longer")
    file.write_bytes(memoryview(b"second"))
    assert file.read_bytes() == b"second"
    assert (file.is_file(), file.is_dir(), file.exists()) == (True, False, True)
    assert (folder.join("a").is_file(), folder.join("a").is_dir(), folder.exists()) == (False, True, True)
    file.delete()
    file.delete()
    with pytest.raises(UserError, match="there is nothing at"):
        file.delete(missing_ok=False)
    with pytest.raises(UserError, match=r"there is nothing at .*a/b\.bin"):
        file.read_bytes()


def test_a_file_of_this_machine_is_written_whole(folder: Location, tmp_path: Path) -> None:
    source = tmp_path / "made"
    for data in (b"x" * 1000, b"", b"y" * 100):
        source.write_bytes(data)
        folder.join("a/b.bin").write_file(source)
        assert folder.join("a/b.bin").read_bytes() == data
        assert [entry.path for entry in folder.walk()] == ["a/b.bin"]


def test_empty_file(folder: Location) -> None:
    file = folder.join("empty")
    file.write_bytes(b"")
    assert file.read_bytes() == b""
    assert [(entry.path, entry.size) for entry in folder.walk()] == [("empty", 0)]


def test_read_refuses_what_is_too_large(folder: Location) -> None:
    file = folder.join("file")
    file.write_bytes(bytes(11))
    assert len(file.read_bytes(max_bytes=11)) == 11
    with pytest.raises(UserError, match=r"11 bytes, more than the 10 allowed"):
        file.read_bytes(max_bytes=10)


def test_json(folder: Location) -> None:
    file = folder.join("x.json")
    file.write_json({"b": [1, 2.5], "a": "Knie, 膝"})
    assert file.read_bytes().decode() == '{\n  "a": "Knie, 膝",\n  "b": [\n    1,\n    2.5\n  ]\n}\n'
    assert file.read_json() == {"a": "Knie, 膝", "b": [1, 2.5]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        file.write_json({"auroc": float("nan")})
    file.write_bytes(b"{broken")
    with pytest.raises(UserError, match=r"x\.json is not valid JSON"):
        file.read_json()


def test_walk_lists_each_file_once_in_order(folder: Location) -> None:
    names = ["b.png", "a/2.png", "a/1.png", "a/c/0.png", "z/y/x.png"]
    for name in names:
        folder.join(name).write_bytes(name.encode())
    entries = list(folder.walk())
    assert [entry.path for entry in entries] == sorted(names)
    assert [entry.size for entry in entries] == [len(name) for name in sorted(names)]
    assert all(entry.mtime_ns > 1.7e18 for entry in entries)
    assert [entry.path for entry in folder.join("a").walk()] == ["1.png", "2.png", "c/0.png"]
    assert list(folder.join("nothing").walk()) == []


def test_delete_dir_takes_what_is_below_and_no_more(folder: Location) -> None:
    for name in ("a/1", "a/b/2", "ab", "c/a/3"):
        folder.join(name).write_bytes(b"x")
    folder.join("a").delete_dir()
    folder.join("nothing").delete_dir()
    assert [entry.path for entry in folder.walk()] == ["ab", "c/a/3"]


@pytest.mark.parametrize("place", ["s3://bucket", "/"])
def test_delete_dir_refuses_roots(place: str) -> None:
    with pytest.raises(UserError, match="refusing to delete"):
        locate(place).delete_dir()


def test_pickled_location_and_filesystem_work_and_compare_equal(folder: Location) -> None:
    folder.join("x").write_bytes(b"x")
    again = pickle.loads(pickle.dumps(folder))
    filesystem = pickle.loads(pickle.dumps(folder.filesystem))
    assert again == folder
    assert filesystem.equals(folder.filesystem)
    assert filesystem.get_file_info(again.join("x").path).size == 1


def test_check_access_to_what_is_usable(folder: Location) -> None:
    folder.join("a/x").write_bytes(b"x")
    check_access(folder)
    check_access(folder.join("a/x"))
    check_access(folder, write=True)
    check_access(folder.join("new/place"), write=True)
    assert [entry.path for entry in folder.walk()] == ["a/x"]
    with pytest.raises(UserError, match=r"there is nothing at .*/nothing"):
        check_access(folder.join("nothing"))


def test_disk_walk_follows_links_but_no_circles(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/x").write_bytes(b"12")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/link").symlink_to(tmp_path / "real")
    (tmp_path / "root/self").symlink_to(tmp_path / "root")
    (tmp_path / "root/dead").symlink_to(tmp_path / "nowhere")
    assert [entry.path for entry in locate(tmp_path / "root").walk()] == ["dead", "link/x"]


def test_disk_order_is_that_of_whole_paths(tmp_path: Path) -> None:
    names = ["a/x", "a-b", "a b", "a.txt", "a0", "A"]
    for name in names:
        locate(tmp_path).join(name).write_bytes(b"")
    assert [entry.path for entry in locate(tmp_path).walk()] == sorted(names)


def test_disk_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = locate(tmp_path / "file")
    file.write_bytes(b"old")

    def no_space(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(UserError, match=r"cannot write .*/file: No space left on device"):
        file.write_bytes(b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert file.read_bytes() == b"old"


def test_disk_walk_hides_what_a_killed_writer_left(tmp_path: Path) -> None:
    (tmp_path / ".mskray-0123.partial").write_bytes(b"half")
    (tmp_path / ".mskray-notes").write_bytes(b"")
    assert [entry.path for entry in locate(tmp_path).walk()] == [".mskray-notes"]


def test_disk_writes_with_the_users_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        locate(tmp_path / "x").write_bytes(b"")
    finally:
        os.umask(old)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


def test_disk_refusals(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    locate(tmp_path).join("folder", os.fsdecode(b"caf\xe9")).write_bytes(b"1")
    below = locate(tmp_path / "file/below")
    table = [
        (lambda: locate(tmp_path / "folder").read_bytes(), "is not a regular file"),
        (lambda: locate(tmp_path / "pipe").read_bytes(), "is not a regular file"),
        (lambda: locate(tmp_path / "folder").write_bytes(b""), "is a folder: name a file"),
        (lambda: below.read_bytes(), "cannot read .*Not a directory"),
        (lambda: below.write_bytes(b""), "cannot write .*(Not a directory|File exists)"),
        (lambda: locate(tmp_path / "folder").delete(), "cannot delete"),
        (lambda: check_access(below, write=True), "cannot write .*file is not a folder"),
        (lambda: locate("/proc/x/y").write_bytes(b""), "cannot write /proc/x"),
        (lambda: check_access(locate("/proc/x/y"), write=True), "cannot write /proc"),
    ]
    for action, says in table:
        with pytest.raises(UserError, match=says):
            action()
    (entry,) = locate(tmp_path / "folder").walk()
    assert locate(tmp_path / "folder").join(entry.path).read_bytes() == b"1"
    check_access(locate(tmp_path / "file"), write=True)


def test_an_output_in_the_copy_of_a_submitted_job_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "session_1" / "runtime_resources" / "working_dir_files" / "_ray_pkg_0123456789abcdef"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    with pytest.raises(UserError, match=r"^bundles/knees would be lost: .* give an absolute URI"):
        check_access(locate("bundles/knees"), write=True)
    check_access(locate("."))
    check_access(locate(tmp_path / "elsewhere"), write=True)


def test_a_file_is_created_once(folder: Location) -> None:
    place = folder.join("deep", "key")
    assert place.create(b"first")
    assert not place.create(b"second")
    assert place.read_bytes() == b"first"
    assert [entry.path for entry in folder.walk()] == ["deep/key"]
    if place.uri.startswith("file:"):
        assert os.stat(place.path).st_mode & 0o077 == 0, "nobody else can read it"


def test_of_many_who_create_a_file_one_succeeds(folder: Location) -> None:
    place = folder.join("key")
    contents = [f"{number}".encode() for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(place.create, contents))
    assert place.read_bytes() == contents[made.index(True)]
    assert made.count(True) == 1
