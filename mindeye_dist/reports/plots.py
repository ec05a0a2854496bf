"""Plots and thumbnails of the page: SVG elements in the page's colours, JPEG data URIs."""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

PREVIEW_SIDE = 112
"""Largest side of a thumbnail on the page, in pixels."""

INKS = {name: f"#00000{n}" for n, name in enumerate(("faint", "text", "soft", "first", "second"))}
"""Placeholder colours of plots; `svg` replaces each by the style sheet's colour of that name. Axes
are black, which works for strokes alone: Matplotlib leaves a black fill out of an SVG."""


def bars(
    rows: Mapping[str, tuple[float, Sequence[float] | None]],
    title: str,
    limit: float,
    thin: Sequence[float] = (),
) -> Markup:
    """Plot each row's share (0..1) as a bar with its interval, the first row in the model's colour.

    Args:
        rows: share and its interval (None for an exact share) by label.
        title: title in the text alternative.
        limit: largest value of all plots with the same scale.
        thin: second share of each row, a thin bar below the first.
    """
    figure = Figure(figsize=(4.6, 0.3 + 0.42 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for position, (share, interval) in enumerate(rows.values()):
        ink = INKS["soft" if position else "first"]
        ends = interval or [share]
        axes.barh(position, share, 0.42, color=ink, alpha=0.9)
        if thin:
            axes.barh(position + 0.32, thin[position], 0.14, color=ink, alpha=0.4)
        axes.plot(ends, [position] * len(ends), color=INKS["text"])
        end = (max(*ends, share), position)
        axes.annotate(percent(share), end, (6, 0), textcoords="offset points", va="center")
    axes.set_xlim(0, 1.22 * limit)
    axes.set_yticks(range(len(rows)), list(rows), parse_math=False)
    axes.tick_params(length=0)
    axes.set_xticks([])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.invert_yaxis()
    values = ", ".join(f"{label} {percent(share)}" for label, (share, _) in rows.items())
    return svg(figure, f"{title}: {values}")


def svg(figure: Figure, alt: str) -> Markup:
    """Return a figure as an SVG element with the page's colours and fonts."""
    buffer = io.StringIO()
    for background in (figure.patch, *(axes.patch for axes in figure.axes)):
        background.set_visible(False)
    # The salt makes ids reproducible, and unique among the plots of a page.
    with matplotlib.rc_context({"svg.hashsalt": alt, "svg.fonttype": "none"}):
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=no_metadata)
    head, body = buffer.getvalue().split("<defs>", 1)
    (box,) = re.findall(r'viewBox="[^"]*"', head)
    # A style element would apply to the whole page, and ids such as axes_1 occur in every plot.
    body = re.sub(r'<style.*?</style>|(?<=<g) id="[^"]*"', "", body, flags=re.DOTALL)
    body = re.sub(r'font-family: [^;"]*(; )?', "", body.replace("xlink:href", "href"))
    for name, ink in INKS.items():
        body = body.replace(ink, f"var(--{name})")
    start = Markup('<svg role="img" aria-label="{}" {}><defs>').format(alt, Markup(box))
    return start + Markup(body)


def from_unit(rgb: Float[np.ndarray, "3 height width"]) -> Image.Image:
    """Convert values in [0, 1] to an 8-bit picture."""
    return Image.fromarray((255 * rgb.transpose(1, 2, 0)).round().astype(np.uint8))


def open_rgb(data: bytes) -> Image.Image:
    """Decode a picture file to RGB."""
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")


def thumbnail_uri(picture: Image.Image) -> str:
    """Return a picture as a data URI, scaled down to `PREVIEW_SIDE` if it is larger."""
    small = picture.copy()
    small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), Image.Resampling.LANCZOS)
    return jpeg_uri(small)


def jpeg_uri(picture: Image.Image, quality: int = 85) -> str:
    """Return a picture as a JPEG data URI."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def percent(share: float) -> str:
    """Format a share (0..1) in percent, with one decimal."""
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def three_decimals(value: float | np.floating[Any]) -> str:
    """Format a score with three decimals, and zero without a sign."""
    return f"{round(float(value), 3) + 0.0:.3f}"
