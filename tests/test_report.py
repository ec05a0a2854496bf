"""The report: what its JSON holds, and that its page is whole, alone, safe, reproducible."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from mindeye_dist.config import ExperimentConfig
from mindeye_dist.metrics import DIRECTIONS
from mindeye_dist.report import INKS, Evaluation, Example, write_report
from mindeye_dist.strict import to_dict

VOID = {"meta", "link", "img", "br"}
HOSTILE = "<script>alert('$x$ & \"y\"')</script>"
POOL = 8
TRAIN = {
    "samples_per_s": 1234.5,
    "data_wait_fraction": 0.021,
    "wall_s": 3725.0,
    "steps": 60000,
    "world_size": 4,
    "zero_stage": 2,
    "backend": "deepspeed",
    "precision": "bf16",
    "device": "cuda",
    "peak_memory_gib": 31.25,
}


class Page(HTMLParser):
    """Reads a page and keeps its elements and text; fails on a tag that is not closed in order."""

    def __init__(self, html):
        super().__init__()
        self.open, self.elements, self.text = [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        """Keep and open an element."""
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        """Keep an element that closes itself."""
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        """Close the innermost element."""
        assert self.open.pop() == tag

    def handle_data(self, data):
        """Keep text."""
        self.text.append(data)

    def says(self, words):
        """Return whether the words stand in the page's text."""
        return words in " ".join(" ".join(self.text).split())

    def named(self, tag):
        """Return the attributes of every such element."""
        return [attrs for name, attrs in self.elements if name == tag]


def scores(top1):
    """Return one row of the report, the same in every way of scoring but for a hundredth."""
    row = {}
    for n, direction in enumerate(DIRECTIONS):
        for m, suffix in enumerate(("", "_centred")):
            value = max(0.0, top1 - (n + 2 * m) / 100)
            row[direction + suffix] = {
                "top1": value,
                "top1_ci": [max(0.0, value - 0.1), min(1.0, value + 0.1)],
                "top5": min(1.0, value + 0.2),
                "median_rank": 1.5,
            }
    return row


def picture(number, mode="RGB", kind="PNG"):
    buffer = io.BytesIO()
    Image.new(mode, (160, 160), number * 20).save(buffer, kind)
    return buffer.getvalue()


def evaluation(truth=True, **changes):
    rows = {"model": scores(0.612), "ridge": scores(0.39), "shuffled": scores(0.0)}
    if truth:
        rows |= {"optimal": scores(0.83), "optimal_linear": scores(0.7)}
    report = {
        "checkpoint": "runs/demo/checkpoints/step0060000",
        "subject": "subj01",
        "num_voxels": 4000,
        "simulated": truth,
        "licence": "CC0",
        "targets": {"name": "tiny", "encoder": "tiny", "digest": "0" * 64},
        "counts": {"train": 80, "val": POOL, "test": POOL},
        "retrieval": {"pool": POOL, "chance": 1 / POOL, **rows},
        "config": to_dict(ExperimentConfig()),
    }
    examples = [
        Example(0, (0, 1, 2, 3, 4), 1),
        Example(1, (2, 1, 3, 4, 5), 2),
        Example(7, (0, 1, 2, 3, 4), 7),
    ]
    return Evaluation(
        report=report | changes,
        examples={direction: examples for direction in DIRECTIONS},
        pictures={n: picture(n) for n in range(POOL)}
        | {3: picture(3, "L"), 4: picture(4, "CMYK", "JPEG")},
    )


def journal(steps=400):
    rows = []
    for step in range(1, steps + 1):
        losses = {f"train/{name}": 1 / step for name in ("contrastive", "prior", "total")}
        shared = {"step": step, "epoch": 240 * (step - 1) // steps}
        rows.append(
            {**shared, "total_steps": steps, **losses, "train/lr": 1e-4, "train/temperature": 0.006}
        )
        if step % 100 == 0:
            losses = {f"val/{name}": 2 / step for name in ("contrastive", "prior", "total")}
            rows.append(shared | losses | {f"val/top1_{d}": step / steps for d in DIRECTIONS})
    return rows


def page(folder, *args):
    return Page(write_report(folder, *args).read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder of a whole report."""
    folder = tmp_path_factory.mktemp("report")
    assert (
        write_report(folder / "a", evaluation(), journal(), TRAIN) == folder / "a" / "report.html"
    )
    return folder / "a"


def test_json_holds_the_evaluation_and_the_training(folder):
    report = json.loads((folder / "report.json").read_text())
    assert report == json.loads(json.dumps(evaluation().report | {"train": TRAIN}))
    assert report["retrieval"]["pool"] == POOL
    assert report["retrieval"]["chance"] == 1 / POOL
    for name in ("model", "ridge", "optimal", "shuffled"):
        for direction in DIRECTIONS:
            for suffix in ("", "_centred"):
                row = report["retrieval"][name][direction + suffix]
                assert {"top1", "top5", "top1_ci"} <= set(row)


def test_only_whole_files_are_left(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "report.json"]


def test_page_asks_the_network_for_nothing(folder):
    html = (folder / "report.html").read_text()
    assert not re.search(r"https?://|url\((?!#)|@import", html)
    links = [
        (name, value)
        for _, attrs in Page(html).elements
        for name, value in attrs.items()
        if name in {"src", "href", "xlink:href", "srcset"}
    ]
    assert links
    for name, value in links:
        assert value.startswith(("data:", "#")), (name, value)


def test_ids_are_unique_and_references_resolve(folder):
    html = (folder / "report.html").read_text()
    ids = [attrs["id"] for _, attrs in Page(html).elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", html)) <= set(ids)


def test_pictures_and_plots_are_described_and_small(folder):
    parsed = Page((folder / "report.html").read_text())
    pictures = parsed.named("img")
    assert len(pictures) == 2 * 3 * 6
    assert all(attrs["alt"].startswith("picture ") for attrs in pictures)
    assert sum("the right one" in attrs["alt"] for attrs in pictures) == 2 * 2
    for attrs in pictures:
        data = io.BytesIO(base64.b64decode(attrs["src"].partition(",")[2]))
        with Image.open(data) as image:
            assert (image.format, max(image.size)) == ("JPEG", 112)
    plots = [attrs["aria-label"] for attrs in parsed.named("svg")]
    assert len(plots) == 2 + 6
    assert any("This model 61.2" in label and "Ideal observer 83.0" in label for label in plots)
    assert all(attrs["scope"] for attrs in parsed.named("th"))


def test_plots_leave_colours_to_the_page(folder):
    html = (folder / "report.html").read_text()
    plots = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    for plot in plots:
        assert not re.search(r"(fill|stroke): #|<style|font-family|<metadata", plot)
        names = set(re.findall(r"var\(--(\w+)\)", plot))
        assert names <= set(INKS)
        assert all(re.search(rf"--{name}: #", html) for name in names)
    # Six rows of two bars, all but the model's own in the soft colour.
    assert plots[0].count("fill: var(--soft)") == 2 * 5


def test_page_says_the_result_in_words(folder):
    parsed = Page((folder / "report.html").read_text())
    assert parsed.says("which of 8 new pictures was seen. It is right 61.2 % of the time")
    assert parsed.says("guessing would be right 12.5 % of the time")
    assert parsed.says("73.7 %")  # 0.612 / 0.83, the share of the ceiling
    assert parsed.says("Right at first place.")
    assert parsed.says("The right one is at place 2.")
    assert parsed.says("Not among the five: the right one is at place 7 of 8.")
    assert parsed.says("dashed line marks epoch 79")  # int(0.33 * 240)
    assert parsed.says("1 h 2 min")
    assert parsed.says("published MindEye code calls forward")
    assert parsed.says("loss.mixco_fraction")


def test_chance_of_a_pool_of_eight(folder):
    parsed = Page((folder / "report.html").read_text())
    # By hand: one of 8, five of 8, and the middle of the places 1 to 8.
    assert parsed.says("Chance 12.5 exact 62.5 4.5")


def test_writing_twice_gives_the_same_bytes(folder):
    again = folder.parent / "b"
    write_report(again, evaluation(), journal(), TRAIN)
    for name in ("report.json", "report.html"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_hostile_names_are_only_text(tmp_path):
    about = evaluation(subject=HOSTILE, licence=HOSTILE, checkpoint=HOSTILE)
    about.report["targets"] = {"name": HOSTILE, "encoder": HOSTILE, "digest": HOSTILE}
    about.report["config"]["run_dir"] = HOSTILE
    about.report["retrieval"][HOSTILE] = scores(0.2)
    parsed = page(tmp_path, about, journal(4), TRAIN | {"device": HOSTILE, HOSTILE: HOSTILE})
    assert parsed.named("script") == []
    assert parsed.says(HOSTILE)
    assert json.loads((tmp_path / "report.json").read_text())["subject"] == HOSTILE


def test_recorded_brain_without_journal_or_numbers_says_so(tmp_path):
    parsed = page(tmp_path, evaluation(truth=False), [], {"steps": 5, "zero_stage": None})
    assert parsed.says("recorded brain")
    assert parsed.says("There is no ceiling here")
    assert parsed.says("No journal found")
    assert parsed.says("not recorded")
    assert parsed.says("ZeRO stage does not apply")
    assert not parsed.says("simulator")
    assert len(parsed.named("svg")) == 2


def test_plots_without_rows_are_named(tmp_path):
    """A run that was cut short before its first validation; one row is one point."""
    parsed = page(tmp_path, evaluation(), journal(1), TRAIN)
    assert parsed.says("Validation top-1 (0 to 1) – not in the journal")
    assert len(parsed.named("svg")) == 2 + 5


@pytest.mark.parametrize(("fraction", "loss"), [(0.0, "SoftCLIP"), (1.0, "BiMixCo")])
def test_one_loss_throughout(tmp_path, fraction, loss):
    about = evaluation()
    about.report["config"]["loss"]["mixco_fraction"] = fraction
    assert page(tmp_path, about, journal(4), TRAIN).says(f"{loss} is used throughout.")


def test_no_report_of_numbers_that_json_lacks(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_report(tmp_path, evaluation(), [], {"samples_per_s": float("nan")})
    assert list(tmp_path.iterdir()) == []
