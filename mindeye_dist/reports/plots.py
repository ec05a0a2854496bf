"""What the report's page draws with: plots (SVG) that take the page's colours, and thumbnails."""

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

THUMBNAIL_SIDE = 112

INKS = {name: f"#00000{n}" for n, name in enumerate(("faint", "text", "soft", "first", "second"))}
"""Stand-ins, in plots, for the style sheet's colours of these names. Axes come in black, which is
for strokes only: Matplotlib leaves a black fill out of an SVG."""


def bars(
    rows: Mapping[str, tuple[float, Sequence[float] | None]],
    title: str,
    limit: float,
    thin: Sequence[float] = (),
) -> Markup:
    """Draw each row's share (0..1) as a bar with its interval, the first row in the model's colour.

    Args:
        rows: share and its interval, None where it is exact, by label.
        title: of the plot, for who does not see it.
        limit: largest value of all plots that are to be compared.
        thin: a second share of each row, drawn as a thin bar below it.
    """
    figure = Figure(figsize=(4.6, 0.3 + 0.42 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for place, (share, interval) in enumerate(rows.values()):
        ink = INKS["soft" if place else "first"]
        ends = interval or [share]
        axes.barh(place, share, 0.42, color=ink, alpha=0.9)
        if thin:
            axes.barh(place + 0.32, thin[place], 0.14, color=ink, alpha=0.4)
        axes.plot(ends, [place] * len(ends), color=INKS["text"])
        end = (max(*ends, share), place)
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
    """Return a figure as an SVG element that takes its colours and fonts from the page."""
    buffer = io.StringIO()
    for background in (figure.patch, *(axes.patch for axes in figure.axes)):
        background.set_visible(False)
    # Ids are hashed with the salt: equal from run to run, and never shared by two plots of a page.
    with matplotlib.rc_context({"svg.hashsalt": alt, "svg.fonttype": "none"}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing)
    head, body = buffer.getvalue().split("<defs>", 1)
    (box,) = re.findall(r'viewBox="[^"]*"', head)
    # The style would hold for the whole page, and names such as axes_1 come again in every plot.
    body = re.sub(r'<style.*?</style>|(?<=<g) id="[^"]*"', "", body, flags=re.DOTALL)
    body = re.sub(r'font-family: [^;"]*(; )?', "", body.replace("xlink:href", "href"))
    for name, ink in INKS.items():
        body = body.replace(ink, f"var(--{name})")
    start = Markup('<svg role="img" aria-label="{}" {}><defs>').format(alt, Markup(box))
    return start + Markup(body)


def painted(rgb: Float[np.ndarray, "3 height width"]) -> Image.Image:
    """Return the picture of values in [0, 1]."""
    return Image.fromarray((255 * rgb.transpose(1, 2, 0)).round().astype(np.uint8))


def opened(data: bytes) -> Image.Image:
    """Return an encoded picture as RGB."""
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")


def thumbnail_uri(picture: Image.Image) -> str:
    """Return a picture as a data URI, shrunk to the thumbnail's side where it is larger."""
    small = picture.copy()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    return jpeg_uri(small)


def jpeg_uri(picture: Image.Image, quality: int = 85) -> str:
    """Return a picture of any size as a data URI."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def percent(share: float) -> str:
    """Return a share (0..1) in percent."""
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def three(value: float | np.floating[Any]) -> str:
    """Return a score with three decimals, and zero without a sign."""
    return f"{round(float(value), 3) + 0.0:.3f}"
