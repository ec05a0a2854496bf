"""The sizing command prints the published model's counts and the cards that hold it."""

import pytest

from jobs import size


def printed(capsys, monkeypatch, *arguments):
    monkeypatch.setenv("COLUMNS", "160")
    size.main(list(arguments))
    return capsys.readouterr().out


def row(text, start):
    return next(
        line for line in text.splitlines() if line.split() and line.strip().startswith(start)
    )


def test_the_published_model(capsys, monkeypatch):
    """1,003,635,088 published parameters less 16 rotary frequencies, which are no parameters."""
    text = printed(capsys, monkeypatch, "--recipe", "mindeye1-subj01")
    assert "940,225,280" in row(text, "backbone")
    assert "7,354,624" in row(text, "projector")
    assert "1,003,635,072" in text
    # 16 bytes a parameter: 15.0 GiB, whatever the number of GPUs.
    assert row(text, "ZeRO 0").count("15.0, ") == 4
    assert "host 11.2" in text


def test_other_subjects_and_flags(capsys, monkeypatch):
    text = printed(capsys, monkeypatch, "--data.subject", "subj07")
    assert "927,765,248" in row(text, "backbone")
    small = printed(
        capsys, monkeypatch, "--num-voxels", "100", "--num-tokens", "5", "--dim", "64",
        "--model.backbone.hidden", "32", "--training.global-batch-size", "8",
    )  # fmt: skip
    assert "100 voxels -> 5 x 64" in small
    assert "8 GPUs, 1 each" in small


def test_an_unknown_subject_is_named(capsys, monkeypatch):
    with pytest.raises(SystemExit, match=r"data\.subject: got 'subj09', expected subj01"):
        printed(capsys, monkeypatch, "--data.subject", "subj09")
