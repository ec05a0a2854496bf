"""Sentences about reconstructions: scores and their 95 % intervals -> text of the page.

A sentence claims a difference between two rows only if their intervals do not overlap.
"""

from typing import Any, Literal

from mindeye_dist.reports.plots import percent, three_decimals

FACTOR_NAMES = {"color": "colour", "all": "all of them"}
"""Names of factors for readers, where they differ from those in the code."""


def score_sentences(report: dict[str, Any]) -> list[str]:
    """Return sentences that compare the model by one score with chance and the rows of COMPARED."""
    rows, metrics = report["rows"], report["metrics"]
    measured = [key for key in metrics if key in rows["model"]["scores"]]
    if not measured:
        return ["No score could be made: see the gaps under the table."]
    judged = [key for key in reversed(measured) if metrics[key]["chance"]]
    # Last resort: the network that chose the candidates. Published metrics come before Lite0's.
    judged.sort(key=lambda key: (_is_by_encoder(key, report["encoder"]), key.startswith("lite0")))
    key = judged[0] if judged else measured[-1]
    metric, sentences = metrics[key], []
    mine = rows["model"]["scores"][key]
    other = {name: row["scores"][key] for name, row in rows.items() if key in row["scores"]}
    value = percent if metric["chance"] else three_decimals
    if metric["chance"]:
        low, high = mine["ci"]
        apart = low > metric["chance"] or high < metric["chance"]
        sentences.append(
            f"By {metric['label']}, the reconstruction is nearer to the seen picture than to "
            f"another test picture in {value(mine['mean'])} of the pairs; guessing would be "
            f"right in {value(metric['chance'])}"
            + ("." if apart else ", which the model's interval does not exclude.")
        )
    else:
        sentences.append(f"{metric['label']} of the reconstructions is {value(mine['mean'])}.")
    if _is_by_encoder(key, report["encoder"]):
        sentences.append(
            "The score is optimistic, since the same network made the tokens and chose among the "
            "candidates; no other two-way score was measured."
        )
    for name, (start, endings) in COMPARED.items():
        if name in other:
            verdict = _verdict(mine, other[name], metric["better"])
            sentences.append(f"{start} {value(other[name]['mean'])}: {endings[verdict]}.")
    return sentences


def pixel_sentences(report: dict[str, Any]) -> list[str]:
    """Return a sentence if the low-level picture alone has better pixel scores than the model."""
    rows, metrics = report["rows"], report["metrics"]
    better = []
    for key in ("pixcorr", "ssim"):
        means = {name: row["scores"].get(key, {}).get("mean") for name, row in rows.items()}
        blurry, model = means.get("lowlevel_only"), means["model"]
        if blurry is not None and model is not None and blurry > model:
            values = f"{three_decimals(blurry)} against {three_decimals(model)}"
            better.append(f"{metrics[key]['label']} ({values})")
    if not better:
        return []
    return [
        f"The low-level picture alone scores higher by {' and '.join(better)}, metrics that favour "
        "blur."
    ]


def _is_by_encoder(metric: str, encoder: str) -> bool:
    """Return whether a metric's network is the encoder that chose the candidates."""
    families = {"clip": "clip-", "lite0": "efficientnet-lite0"}
    return any(metric.startswith(m) and encoder.startswith(e) for m, e in families.items())


Verdict = Literal["better", "level", "worse"]

COMPARED: dict[str, tuple[str, dict[Verdict, str]]] = {
    "shuffled": (
        "The same pictures, assigned to the wrong brains, reach",
        {
            "better": "the model is better than that",
            "level": "the model is no better than that, as far as the intervals can tell",
            "worse": "the model is worse than that",
        },
    ),
    "true_tokens": (
        "Given the true tokens instead of the predicted ones, the generator reaches",
        {
            "better": "less than the model, so it is no upper bound here",
            "level": "the model cannot be told from that upper bound",
            "worse": "the model stays below that upper bound",
        },
    ),
    "best_training_picture": (
        "The best training picture, shown instead of a reconstruction, reaches",
        {
            "better": "generating is better than looking up",
            "level": "generating is no better than looking up, as far as the intervals can tell",
            "worse": "generating is worse than looking up",
        },
    ),
}
"""Comparison of the model with a row: start of the sentence, and its end by verdict."""


def _verdict(mine: dict[str, Any], other: dict[str, Any], better: str) -> Verdict:
    """Compare the model with another row; "level" if their intervals overlap."""
    (low, high), (other_low, other_high) = mine["ci"], other["ci"]
    if low > other_high:
        return "better" if better == "higher" else "worse"
    if high < other_low:
        return "worse" if better == "higher" else "better"
    return "level"


def factor_sentences(report: dict[str, Any]) -> list[str]:
    """Return a sentence on each factor's accuracy, compared with that of shuffled brains."""
    rows = report["factors"].get("rows", {})
    if "model" not in rows or "shuffled" not in rows:
        return []
    sentences = []
    for name, mine in rows["model"].items():
        shuffled = rows["shuffled"][name]
        factor = f"The {FACTOR_NAMES.get(name, name)} of the object is"
        subject = "All of these are" if name == "all" else factor
        share = f"{subject} right in {percent(mine['mean'])} of the pictures"
        against = f"shuffled brains ({percent(shuffled['mean'])})"
        verdict = _verdict(mine, shuffled, "higher")
        if verdict == "level":
            sentences.append(
                f"{share}, no more often than for {against}, as far as the intervals can tell."
            )
        elif shuffled["mean"] == 0:
            sentences.append(f"{share}, and in none for shuffled brains.")
        else:
            times = mine["mean"] / shuffled["mean"]
            only = "only " if verdict == "worse" else ""
            often = f"{times:.1f}" if times < 10 else f"{times:.0f}"
            sentences.append(f"{share}, {only}{often} times as often as for {against}.")
    return sentences
