"""What the scores of reconstructions say, in sentences, and no more than their intervals allow."""

from typing import Any, Literal

from mindeye_dist.reports.plots import percent, three

FACTORS = {"color": "colour", "all": "all of them"}
"""Reader's words for factors that the code calls otherwise."""


def score_words(report: dict[str, Any]) -> list[str]:
    """Return sentences that say what the scores say, and no more than their intervals allow."""
    rows, metrics = report["rows"], report["metrics"]
    measured = [key for key in metrics if key in rows["model"]["scores"]]
    if not measured:
        return ["No score could be made: see the gaps under the table."]
    judged = [key for key in reversed(measured) if metrics[key]["chance"]]
    # What chose the candidates is no judge of them; Lite0 is none of the published ones.
    judged.sort(key=lambda key: (_chose(key, report["encoder"]), key.startswith("lite0")))
    key = judged[0] if judged else measured[-1]
    metric, sentences = metrics[key], []
    mine = rows["model"]["scores"][key]
    other = {name: row["scores"][key] for name, row in rows.items() if key in row["scores"]}
    value = percent if metric["chance"] else three
    if metric["chance"]:
        low, high = mine["ci"]
        apart = low > metric["chance"] or high < metric["chance"]
        sentences.append(
            f"By {metric['label']}, the reconstruction is nearer to the picture that was seen than "
            f"to another test picture in {value(mine['mean'])} of the pairs; guessing would be "
            f"right in {value(metric['chance'])}"
            + ("." if apart else ", and the interval of the model does not exclude that.")
        )
    else:
        sentences.append(f"{metric['label']} of the reconstructions is {value(mine['mean'])}.")
    if _chose(key, report["encoder"]):
        sentences.append(
            "That network made the tokens and chose among the candidates, which flatters them; no "
            "other two-way score was measured."
        )
    for name, (start, endings) in COMPARED.items():
        if name in other:
            verdict = _verdict(mine, other[name], metric["better"])
            sentences.append(f"{start} {value(other[name]['mean'])}: {endings[verdict]}.")
    return sentences


def pixel_words(report: dict[str, Any]) -> list[str]:
    """Return a sentence where the blurry picture has better pixels than what is drawn over it."""
    rows, metrics = report["rows"], report["metrics"]
    told = []
    for key in ("pixcorr", "ssim"):
        of = {name: row["scores"].get(key, {}).get("mean") for name, row in rows.items()}
        blurry, drawn = of.get("lowlevel_only"), of["model"]
        if blurry is not None and drawn is not None and blurry > drawn:
            told.append(f"{metrics[key]['label']} ({three(blurry)} against {three(drawn)})")
    if not told:
        return []
    return [f"The low-level picture alone is nearer by {' and '.join(told)}, which favour blur."]


def _chose(metric: str, encoder: str) -> bool:
    """Return whether a metric's network is the encoder that chose the candidates."""
    families = {"clip": "clip-", "lite0": "efficientnet-lite0"}
    return any(metric.startswith(m) and encoder.startswith(e) for m, e in families.items())


Verdict = Literal["better", "level", "worse"]

COMPARED: dict[str, tuple[str, dict[Verdict, str]]] = {
    "shuffled": (
        "The same pictures dealt out to the wrong brains reach",
        {
            "better": "the model is better than that",
            "level": "the model is no better than that, as far as the intervals can tell",
            "worse": "the model is worse than that",
        },
    ),
    "true_tokens": (
        "Given the true tokens in place of the brain's, the generator reaches",
        {
            "better": "less than the model, so it is no upper bound here",
            "level": "the model cannot be told from that upper bound",
            "worse": "the model stays below that upper bound",
        },
    ),
    "best_training_picture": (
        "The best training picture, shown in place of a reconstruction, reaches",
        {
            "better": "drawing is better than looking up",
            "level": "drawing is no better than looking up, as far as the intervals can tell",
            "worse": "drawing is worse than looking up",
        },
    ),
}
"""How the lead compares the model with a row: start of the sentence, and its end by verdict."""


def _verdict(mine: dict[str, Any], other: dict[str, Any], better: str) -> Verdict:
    """Return how the model stands to another row; level where their intervals touch."""
    (low, high), (other_low, other_high) = mine["ci"], other["ci"]
    if low > other_high:
        return "better" if better == "higher" else "worse"
    if high < other_low:
        return "worse" if better == "higher" else "better"
    return "level"


def factor_words(report: dict[str, Any]) -> list[str]:
    """Return sentences on how often each factor is right, beside shuffled brains."""
    rows = report["factors"].get("rows", {})
    if "model" not in rows or "shuffled" not in rows:
        return []
    sentences = []
    for name, mine in rows["model"].items():
        shuffled = rows["shuffled"][name]
        one = f"The {FACTORS.get(name, name)} of the object is"
        subject = "All of these are" if name == "all" else one
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
