"""The report: content of its JSON; its page is complete, self-contained, safe, reproducible."""

import base64
import io
import json
import re
from copy import deepcopy
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from mindeye_dist.config import ExperimentConfig
from mindeye_dist.evaluation.results import (
    Evaluation,
    PictureExample,
    ReconstructionResult,
    RetrievalExample,
)
from mindeye_dist.metrics import DIRECTIONS
from mindeye_dist.reports.page import write_report
from mindeye_dist.reports.pictures import RANDOM_EXAMPLES
from mindeye_dist.reports.plots import INKS
from mindeye_dist.reports.words import factor_sentences, pixel_sentences, score_sentences
from mindeye_dist.simulation.scenes import render_scene
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
        RetrievalExample(0, (0, 1, 2, 3, 4), 1),
        RetrievalExample(1, (2, 1, 3, 4, 5), 2),
        RetrievalExample(7, (0, 1, 2, 3, 4), 7),
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
    assert parsed.says("Right : rank 1.")
    assert parsed.says("The right one has rank 2.")
    assert parsed.says("Not among the five: the right one has rank 7 of 8.")
    assert parsed.says("dashed line marks epoch 79")  # int(0.33 * 240)
    assert parsed.says("1 h 2 min")
    assert parsed.says("published MindEye code calls image to brain")
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


# The report's pictures.

METRICS = {
    "pixcorr": {"label": "PixCorr", "chance": None, "perfect": 1.0, "better": "higher", "gap": ""},
    "alexnet2": {
        "label": "AlexNet(2)",
        "chance": 0.5,
        "perfect": 1.0,
        "better": "higher",
        "gap": "weights not given: --networks.alexnet PATH",
    },
    "lite0": {"label": "Lite0", "chance": 0.5, "perfect": 1.0, "better": "higher", "gap": ""},
    "distance": {
        "label": "Lite0 distance",
        "chance": None,
        "perfect": 0.0,
        "better": "lower",
        "gap": "",
    },
}
LABELS = {
    "model": "This model",
    "true_tokens": "True tokens",
    "seed_43": "Seed 43",
    "best_training_picture": "Best training picture",
    "mean_brain": "Mean brain",
    "shuffled": "Shuffled brains",
    "lowlevel_only": "Low-level picture alone",
}


def interval(mean):
    return {"mean": mean, "ci": [round(mean - 0.0311, 4), round(mean + 0.0289, 4)]}


def scored(place, two_way):
    """Return a row's scores; its first decimals tell rows and metrics apart."""
    means = {"pixcorr": 0.2013 + place / 10, "lite0": two_way, "distance": 0.9017 - place / 10}
    return {key: interval(mean) | {"undefined": 0} for key, mean in means.items()}


def drawing(number, score, candidates=16, side=64, lowlevel=True):
    """Return an example whose candidates are of one random colour each."""
    random = np.random.default_rng(number)
    colours = random.integers(0, 256, (candidates, 1, 1, 3), dtype=np.uint8)
    return PictureExample(
        number=number,
        seen=picture(number % 10),
        lowlevel=np.full((20, 30, 3), 128, np.uint8) if lowlevel else None,
        candidates=colours.repeat(side, axis=1).repeat(side, axis=2),
        scores=np.linspace(0.3, 0.6, candidates, dtype=np.float32),
        chosen=candidates - 1,
        score=score,
        caption=f"scene number {number}",
        truths={"kind": ("cat", "dog"), "color": ("red", "red")},
    )


def reconstructed(examples=(), factors=False, **two_way):
    shares = {"model": 0.812, "true_tokens": 0.971, "shuffled": 0.502} | two_way
    rows = {
        name: {
            "label": label,
            "note": f"Note of {name}.",
            "scores": scored(n, shares.get(name, 0.6)),
        }
        for n, (name, label) in enumerate(LABELS.items())
    }
    right = {
        name: {factor: interval(0.41 + n / 100) for factor in ("kind", "color", "all")}
        for n, name in enumerate(LABELS)
    }
    right["shuffled"] = {"kind": interval(0.0511), "color": interval(0.39), "all": interval(0.0)}
    return ReconstructionResult(
        report={
            "generator": {"name": "tiny", "digest": "ab" * 32, "side": 64, "note": ""},
            "encoder": "tiny",
            "candidates": 16,
            "strength": 0.85,
            "averaged_samples": 8,
            "seeds": [42, 43],
            "pool": 100,
            "of": 500,
            "sorted_by": "two-way on Lite0",
            "metrics": deepcopy(METRICS),
            "rows": rows,
            "factors": {
                "chance": {"kind": 1 / 30, "color": 1 / 12, "all": 1 / 360},
                "rows": right,
                "ceiling": {factor: interval(0.9123) for factor in ("kind", "color", "all")},
            }
            if factors
            else {},
        },
        examples=examples,
    )


def with_pictures(folder, made, retrieval=False):
    """Return the page; without retrieval it is the same but quick, since it draws no plots."""
    about = replace(evaluation(), reconstructions=made)
    if not retrieval:
        del about.report["retrieval"]
        about = replace(about, examples={}, pictures={})
    return page(folder, about, [], TRAIN)


def order_of(parsed, of):
    """Return the numbers of the pictures whose alternative text ends so, in the page's order."""
    texts = [attrs["alt"] for attrs in parsed.named("img") if of in attrs["alt"]]
    return [int(re.match(r"picture (\d+)", text)[1]) for text in texts]


def test_json_holds_the_pictures_as_they_were_given(tmp_path):
    made = reconstructed([drawing(3, 0.9)])
    with_pictures(tmp_path, made)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["pictures"] == json.loads(json.dumps(made.report))


def test_every_score_of_the_pictures_stands_in_its_table(tmp_path):
    made = reconstructed([drawing(3, 0.9)])
    text = " ".join(" ".join(with_pictures(tmp_path, made).text).split())
    for row in made.report["rows"].values():
        cells = [
            f"{s['mean']:.3f} {s['ci'][0]:.3f} to {s['ci'][1]:.3f}" for s in row["scores"].values()
        ]
        assert f"{row['label']} {' '.join(cells)}" in text
    assert "Chance none 0.500 none Perfect 1.000 1.000 0.000" in text
    assert "Not measured: AlexNet(2): weights not given: --networks.alexnet PATH" in text
    assert text.count("lower is better") == 1
    assert "No score is undefined for any picture." in text
    for name in LABELS:
        assert f"Note of {name}." in text


def test_shares_of_right_factors_and_their_ratios(tmp_path):
    """Ratios by hand: 0.41 / 0.0511, and of the interval ends 0.3789 / 0.08."""
    parsed = with_pictures(tmp_path, reconstructed([drawing(3, 0.9)], factors=True), True)
    assert parsed.says("This model 41.0 37.9 to 43.9 8.0 times, at least 4.7")
    assert parsed.says("Seen pictures (ceiling) 91.2 88.1 to 94.1")
    assert parsed.says("Chance 3.33 8.33 0.278")
    plots = [attrs["aria-label"] for attrs in parsed.named("svg")]
    (kind,) = [label for label in plots if label.startswith("Right kind")]
    for words in ("This model 41.0", "Shuffled brains 5.1", "Seen pictures 91.2", "Chance 3.3"):
        assert words in kind
    assert len(plots) == 2 + 3


def test_factor_sentences_flip_with_the_numbers():
    """Ratios by hand; intervals of 0.379 to 0.439 and 0.359 to 0.419 overlap."""
    report = reconstructed(factors=True).report
    shuffled = report["factors"]["rows"]["shuffled"]
    kind, colour, every = (words.replace("\xa0", " ") for words in factor_sentences(report))
    assert kind == (
        "The kind of the object is right in 41.0 % of the pictures, 8.0 times as often as for "
        "shuffled brains (5.1 %)."
    )
    assert colour == (
        "The colour of the object is right in 41.0 % of the pictures, no more often than for "
        "shuffled brains (39.0 %), as far as the intervals can tell."
    )
    assert every == (
        "All of these are right in 41.0 % of the pictures, and in none for shuffled brains."
    )
    shuffled["kind"] = interval(0.82)
    assert "only 0.5 times as often as for shuffled" in factor_sentences(report)[0]
    del report["factors"]["rows"]["shuffled"]
    assert factor_sentences(report) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "wrong brains, reach 50.2 %: the model is better than that."),
        ({"shuffled": 0.79}, "79.0 %: the model is no better than that, as far as"),
        ({"shuffled": 0.83}, "83.0 %: the model is no better than that, as far as"),
        ({"shuffled": 0.95}, "95.0 %: the model is worse than that."),
        ({}, "generator reaches 97.1 %: the model stays below that upper bound."),
        ({"true_tokens": 0.82}, "82.0 %: the model cannot be told from that upper bound."),
        ({"true_tokens": 0.7}, "70.0 %: less than the model, so it is no upper bound here."),
        ({"best_training_picture": 0.7}, "70.0 %: generating is better than looking up."),
        ({"best_training_picture": 0.8}, "80.0 %: generating is no better than looking up, as far"),
        ({"best_training_picture": 0.9}, "90.0 %: generating is worse than looking up."),
        ({}, "in 81.2 % of the pairs; guessing would be right in 50.0 %. The same"),
        ({"model": 0.52}, "right in 50.0 %, which the model's interval does not exclude."),
        ({"model": 0.4}, "in 40.0 % of the pairs; guessing would be right in 50.0 %. The same"),
    ],
)
def test_score_sentences_flip_with_the_numbers(changes, words):
    said = " ".join(score_sentences(reconstructed(**changes).report))
    assert words in said.replace("\xa0", " ")


@pytest.mark.parametrize(
    ("encoder", "measured", "leads", "optimistic"),
    [
        ("clip-vit-l-14", ("alexnet5", "inception", "clip", "lite0"), "INCEPTION", False),
        ("clip-vit-l-14", ("clip", "lite0"), "LITE0", False),
        ("clip-vit-l-14-final", ("clip",), "CLIP", True),
        ("efficientnet-lite0-projected55", ("alexnet5", "clip", "lite0"), "CLIP", False),
        ("efficientnet-lite0-projected55", ("lite0",), "LITE0", True),
        ("tiny", ("clip", "lite0"), "CLIP", False),
    ],
)
def test_the_network_that_chose_the_candidates_does_not_lead(encoder, measured, leads, optimistic):
    """By hand: which of the measured scores is the last published one by another network."""
    report = reconstructed().report
    usual = report["metrics"]["lite0"]
    report["encoder"] = encoder
    report["metrics"] = {key: usual | {"label": key.upper()} for key in measured}
    for row in report["rows"].values():
        row["scores"] = dict.fromkeys(measured, row["scores"]["lite0"])
    said = score_sentences(report)
    assert said[0].startswith(f"By {leads}, ")
    assert any("chose among the candidates" in words for words in said) == optimistic


def test_the_page_says_where_blur_wins():
    report = reconstructed().report
    rows = report["rows"]
    rows["model"]["scores"]["pixcorr"] |= interval(0.571)
    rows["lowlevel_only"]["scores"]["pixcorr"] |= interval(0.604)
    (said,) = pixel_sentences(report)
    assert said.replace("\xa0", " ").startswith(
        "The low-level picture alone scores higher by PixCorr (0.604 against 0.571)"
    )
    rows["lowlevel_only"]["scores"]["pixcorr"] |= interval(0.5)
    assert pixel_sentences(report) == []
    del rows["lowlevel_only"]
    assert pixel_sentences(report) == []


def test_sentences_stand_on_the_page(tmp_path):
    made = reconstructed(factors=True)
    parsed = with_pictures(tmp_path, made)
    assert parsed.says(
        "For 100 of the 500 test pictures the generator drew 16 candidates from brain activity"
    )
    for words in (score_sentences(made.report), factor_sentences(made.report)):
        assert parsed.says(" ".join(words).replace("\xa0", " "))


def test_lower_is_better_for_distances():
    """With no two-way score the first metric speaks; here a distance of 0.3 against 0.9."""
    made = reconstructed()
    metrics = made.report["metrics"]
    for key in ("pixcorr", "lite0"):
        metrics[key]["gap"] = "weights not given"
        for row in made.report["rows"].values():
            del row["scores"][key]
    rows = made.report["rows"]
    rows["model"]["scores"]["distance"] |= interval(0.3)
    rows["shuffled"]["scores"]["distance"] |= interval(0.9)
    first, second, *_ = score_sentences(made.report)
    assert first == "Lite0 distance of the reconstructions is 0.300."
    assert second.endswith("wrong brains, reach 0.900: the model is better than that.")
    for row in rows.values():
        row["scores"].clear()
    metrics["distance"]["gap"] = "weights not given"
    (only,) = score_sentences(made.report)
    assert only.startswith("No score could be made")


def test_undefined_scores_are_counted_by_name(tmp_path):
    made = reconstructed()
    made.report["rows"]["mean_brain"]["scores"]["pixcorr"]["undefined"] = 17
    parsed = with_pictures(tmp_path, made)
    assert parsed.says("PixCorr of Mean brain: 17")
    assert not parsed.says("No score is undefined")


@pytest.mark.parametrize("count", [0, 1, 24, 25, 40])
def test_pictures_are_sorted_and_none_is_lost(tmp_path, count):
    """Scores fall as a known permutation; best, middle and worst are its slices."""
    places = np.random.default_rng(1).permutation(count).tolist()
    examples = [drawing(n, 1 - place / 100, 2, 8) for n, place in enumerate(places)]
    parsed = with_pictures(tmp_path, reconstructed(examples))
    ranked = np.argsort(places).tolist()
    strips = order_of(parsed, "number 2 is chosen")
    if count <= 24:
        assert strips == ranked
    else:
        middle = (count - 8) // 2
        shown = ranked[:8] + ranked[middle : middle + 8] + ranked[-8:]
        assert strips[:24] == shown
        assert strips[24:] == [n for n in ranked if n not in shown]
    assert parsed.says("No examples were kept.") == (count == 0)


def test_random_page_does_not_know_the_scores(tmp_path):
    examples = [drawing(n, n / 30, candidates=2, side=8) for n in range(30)]
    pages = []
    turned = [replace(example, score=-example.score) for example in examples[::-1]]
    for name, kept in (("a", examples), ("b", turned)):
        drawn = order_of(with_pictures(tmp_path / name, reconstructed(kept)), "drawn from")
        assert len(drawn) == 30 + 12
        pages.append(drawn[-12:])
    assert pages[0] == pages[1]
    assert len(set(pages[0])) == 12
    assert pages[0] not in (sorted(pages[0]), sorted(pages[0], reverse=True))


def test_card_tells_what_was_right_and_frames_the_chosen_one(tmp_path):
    """Candidate 12 of 16 lies in the second row of eight, in its fourth column."""
    example = replace(drawing(5, 0.875, side=8), chosen=11)
    parsed = with_pictures(tmp_path, reconstructed([example]))
    assert parsed.says("1 of 1 · score 0.875 similarity 0.520")  # 0.3 + 0.3 * 11 / 15
    assert parsed.says("scene number 5")
    assert parsed.says("✗ kind: cat, read as dog")
    assert parsed.says("✓ colour: red")
    assert parsed.says("16 candidates, similarity 0.300 to 0.600")
    (frame,) = [attrs["style"] for attrs in parsed.named("i") if "style" in attrs]
    assert frame == "left:37.5%;top:50.0%;width:12.5%;height:50.0%"


def test_strip_holds_every_candidate_in_order(tmp_path):
    """Candidates of one colour each: the strip's cells have these colours, within JPEG's loss."""
    example = drawing(5, 0.5, candidates=11, side=8)
    parsed = with_pictures(tmp_path, reconstructed([example]))
    (attrs,) = [attrs for attrs in parsed.named("img") if "11 candidates" in attrs["alt"]]
    with Image.open(io.BytesIO(base64.b64decode(attrs["src"].partition(",")[2]))) as image:
        assert image.size == (6 * 56, 2 * 56)
        for n, rgb in enumerate(example.candidates[:, 0, 0].astype(float)):
            middle = image.getpixel((n % 6 * 56 + 28, n // 6 * 56 + 28))
            assert np.abs(np.array(middle) - rgb).max() < 8


def test_without_low_level_factors_or_choice_the_page_leaves_them_out(tmp_path):
    lone = replace(drawing(5, 0.5, candidates=1, lowlevel=False), caption="", truths={})
    made = reconstructed([lone])
    made.report.update({"candidates": 1, "strength": None, "pool": 500})
    parsed = with_pictures(tmp_path, made)
    assert parsed.says("For each of the 500 test pictures the generator drew one picture from")
    assert parsed.says("no low-level picture to start from")
    assert not parsed.says("right thing in the picture")
    assert order_of(parsed, "low level") == []
    assert len(order_of(parsed, "drawn from")) == 2
    assert not any("candidates" in attrs.get("alt", "") for attrs in parsed.named("img"))


def test_page_with_pictures_is_alone_safe_and_described(tmp_path):
    hostile = replace(drawing(5, 0.5), caption=HOSTILE, truths={HOSTILE: (HOSTILE, "")})
    made = reconstructed([hostile], factors=True)
    made.report["generator"]["name"] = made.report["sorted_by"] = HOSTILE
    made.report["rows"]["model"] |= {"label": HOSTILE, "note": HOSTILE}
    made.report["metrics"]["alexnet2"]["gap"] = HOSTILE
    parsed = with_pictures(tmp_path, made, retrieval=True)
    html = (tmp_path / "report.html").read_text()
    assert parsed.named("script") == []
    assert parsed.says(HOSTILE)
    assert not re.search(r"https?://|url\((?!#)|@import", html)
    assert all(attrs["alt"].startswith("picture ") for attrs in parsed.named("img"))
    assert all(attrs["scope"] for attrs in parsed.named("th"))
    ids = [attrs["id"] for _, attrs in parsed.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", html)) <= set(ids)
    scrolling = [attrs for attrs in parsed.named("div") if "scroll" in attrs.get("class", "")]
    assert all(attrs["tabindex"] == "0" and attrs["aria-label"] for attrs in scrolling)


def test_page_of_a_hundred_pictures_can_be_sent(tmp_path):
    """With sharp scenes for candidates an example takes at most 40 KiB: 4 MiB for a hundred."""
    scenes = [render_scene(n, seed=0).picture for n in range(16)]
    encoded = io.BytesIO()
    Image.fromarray(scenes[0]).save(encoded, "PNG")
    rgb = np.stack(scenes)
    example = replace(
        drawing(0, 0.5), seen=encoded.getvalue(), candidates=rgb, lowlevel=rgb[0], chosen=0
    )
    sizes = []
    for count in (RANDOM_EXAMPLES, RANDOM_EXAMPLES + 10):
        made = reconstructed([replace(example, number=n) for n in range(count)])
        with_pictures(tmp_path / str(count), made)
        sizes.append((tmp_path / str(count) / "report.html").stat().st_size)
    assert (sizes[1] - sizes[0]) / 10 < 40 * 1024
    assert sizes[0] < RANDOM_EXAMPLES * 60 * 1024


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": float("nan")}, "picture 5: got a score that is not finite"),
        ({"scores": np.full(16, np.inf)}, "picture 5: got a score that is not finite"),
        ({"chosen": 16}, "picture 5: got candidate 16 as chosen and 16 scores for 16 candidates"),
        ({"chosen": -1}, "picture 5: got candidate -1 as chosen"),
    ],
)
def test_pictures_that_cannot_be_shown_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(drawing(5, 0.5), **changes)


def test_report_without_pictures_says_nothing_of_them(folder):
    parsed = Page((folder / "report.html").read_text())
    assert not parsed.says("Reconstructions")
    assert not any("made" in attrs.get("class", "").split() for attrs in parsed.named("li"))


def test_published_draws_stand_beside_pictures(tmp_path):
    """Both parts of the page at once: retrieval in draws, and reconstructions."""
    score = {"top1": 0.4321, "top1_ci": [0.4, 0.4567]}
    drawn = {"pool": 300, "draws": 30, "chance": 1 / 300, **dict.fromkeys(DIRECTIONS, score)}
    given = evaluation()
    report = given.report | {"retrieval_in_draws": {"model": drawn, "shuffled": drawn}}
    both = replace(given, report=report, reconstructions=reconstructed())
    text = " ".join(Page(write_report(tmp_path, both, [], TRAIN).read_text()).text)
    assert "43.2" in text
    assert "mean of 30 seeded random draws" in text
    assert "How to read this" in text
