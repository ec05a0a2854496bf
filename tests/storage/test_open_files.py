"""Files that are kept open. Oracle: what each was written with."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest

from mindeye_dist.storage import open_files
from mindeye_dist.storage.open_files import OpenFiles


def test_threads_that_open_more_than_stay_open_read_their_own(tmp_path, monkeypatch):
    """A file closed while another thread is about to read it gives its number to the next one."""
    monkeypatch.setattr(open_files, "MOST", 2)
    files = OpenFiles()
    for number in range(12):
        (tmp_path / str(number)).write_bytes(bytes([number]) * 64)

    def read(turn):
        wrong = 0
        for number in range(3000):
            name = (number * (turn + 1) + turn) % 12
            place = bytearray(64)
            assert files.read_into(str(tmp_path / str(name)), 0, [place]) == 64
            wrong += place != bytes([name]) * 64
        return wrong

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read, range(4))) == [0] * 4


def test_they_are_the_files_of_the_first_reading_until_forgotten(tmp_path):
    path, files, place = tmp_path / "a", OpenFiles(), bytearray(3)
    path.write_bytes(b"old")
    assert files.read_into(str(path), 0, [place]) == 3
    (tmp_path / "b").write_bytes(b"new")
    (tmp_path / "b").replace(path)
    files.read_into(str(path), 0, [place])
    assert place == b"old"
    files.forget()
    files.read_into(str(path), 0, [place])
    assert place == b"new"
    path.unlink()
    files.forget()
    with pytest.raises(FileNotFoundError):
        files.read_into(str(path), 0, [place])


def test_they_are_copied_closed(tmp_path):
    path, files, place = tmp_path / "a", OpenFiles(), bytearray(1)
    path.write_bytes(b"x")
    files.read_into(str(path), 0, [place])
    again = copy.deepcopy(files)  # by what pickling asks for, too
    assert again._open.cache_info().currsize == 0
    assert again.read_into(str(path), 0, [place]) == 1
