"""Tables of events; the oracle is what the tables here say in words."""

import pytest

from mindeye_dist.errors import DataError
from mindeye_dist.ingest.events import read_events


@pytest.fixture
def table(tmp_path):
    def write(text):
        path = tmp_path / "events.tsv"
        path.write_text(text.replace(" ", "\t"))
        return path

    return write


def test_volumes_or_onsets_tabs_or_commas(tmp_path, table):
    trials = read_events(
        table("session run volume picture condition\n1 a 3 x.jpg cat\n1 b 9 n/a dog\n"),
        test_runs=("b",),
    )
    assert [(t.session, t.run, t.volume, t.picture, t.condition, t.split) for t in trials] == [
        ("1", "a", 3, "x.jpg", "cat", "train"),
        ("1", "b", 9, "", "dog", "test"),
    ]
    assert [t.line for t in trials] == [2, 3]
    (tmp_path / "events.csv").write_text(
        '\ufeffsession,run,onset,picture,split\n1,1,7.5,"a, b.jpg",val\n1,1,7.4,c,train\n'
    )
    trials = read_events(tmp_path / "events.csv", tr=2.5)
    assert [(t.volume, t.picture, t.split) for t in trials] == [
        (3, "a, b.jpg", "val"),
        (3, "c", "train"),
    ]


def test_onsets_amid_two_volumes_all_go_to_the_later(table):
    onsets = {"1": 1, "3": 2, "5": 3, "7": 4, "2.9": 1, "3.1": 2, "0.9": 0, "0": 0}
    rows = "".join(f"1 1 {onset} a train\n" for onset in onsets)
    trials = read_events(table("session run onset condition split\n" + rows), tr=2.0)
    assert [t.volume for t in trials] == list(onsets.values())
    for onset in ("nan", "inf", "x"):
        with pytest.raises(DataError, match=f"onset is '{onset}', expected a number"):
            read_events(table(f"session run onset condition split\n1 1 {onset} a train\n"), 2.0)


GOOD = "session run volume condition split\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD, "has no trials"),
        ("run volume condition split\n1 1 a train\n", "has no column session, only"),
        ("session volume condition split\n1 1 a train\n", "has no column run, only"),
        ("session run condition split\n1 1 a train\n", "has no column volume or onset, only"),
        ("session run volume split\n1 1 1 train\n", "has no column picture or condition, only"),
        ("session run volume onset condition split\n1 1 1 1 a train\n", "expected one of both"),
        ("session run onset condition split\n1 1 1 a train\n", "need the time between volumes"),
        ("session run volume condition\n1 1 1 a\n", "either a column split, or val or test runs"),
        (GOOD + "1 1 1 a train\n1 1 2.5 a train\n", "line 3: volume is '2.5', expected a number"),
        (GOOD + "1 1 -1 a train\n", "line 2: volume is -1, expected 0 or more"),
        (GOOD + "1 1 1 a dev\n", "line 2: split is 'dev', expected one of train, val, test"),
        (GOOD + "1 1 1 a\n", "line 2: has not as many values as the header"),
        (GOOD + "1 1 1 a train more\n", "line 2: has not as many values as the header"),
        (
            "session run volume picture split\n1 1 1 a train\n1 2 1 b test\n1 3 1 a test\n",
            "picture a is without condition of split train in line 2, but .* test in line 4",
        ),
        (
            "session run volume picture condition split\n1 1 1 a x train\n1 3 1 a y train\n",
            "picture a is x of split train in line 2, but y of split train in line 3",
        ),
    ],
)
def test_bad_tables_are_named(table, text, message):
    with pytest.raises(DataError, match=rf"events\.tsv: .*{message}"):
        read_events(table(text))


def test_bad_choices_of_runs(table, tmp_path):
    path = table("session run volume condition\n1 1 1 a\n1 2 1 a\n")
    for val, test in ((("1",), ("1",)), ((), ("3",))):
        with pytest.raises(DataError, match=r"expected different runs of \['1', '2'\]"):
            read_events(path, val_runs=val, test_runs=test)
    with pytest.raises(DataError, match="either a column split"):
        read_events(table(GOOD + "1 1 1 a train\n"), test_runs=("1",))
    with pytest.raises(DataError, match=r"nowhere\.tsv: cannot be read as a table"):
        read_events(tmp_path / "nowhere.tsv")
    (tmp_path / "binary.tsv").write_bytes(bytes(range(256)))
    with pytest.raises(DataError, match=r"binary\.tsv: cannot be read as a table"):
        read_events(tmp_path / "binary.tsv")
