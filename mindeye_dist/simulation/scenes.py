"""The project's own rendered scenes: pictures for the demo that need no download.

A scene is a ground (grass, sea, brick wall, ...) with one object of known kind, colour, place and
size, often with a small companion, under varying light. Whether a reconstruction shows the right
object is then judgeable, by a viewer or by code. `render_scene(index, seed)` is a pure function
and gives the picture (height, width, 3) as uint8, a caption, and the factors that it names.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageDraw, ImageFilter

from mindeye_dist.randomness import numpy_generator
from mindeye_dist.simulation.scene_objects import DRAWINGS, MARGIN, Pen, Rgb

Canvas = Float32[np.ndarray, "height width 3"]

COLORS: dict[str, Rgb] = {
    "red": (212, 38, 40),
    "orange": (242, 132, 30),
    "yellow": (246, 208, 48),
    "green": (56, 158, 64),
    "turquoise": (64, 196, 190),
    "blue": (44, 88, 204),
    "purple": (132, 62, 172),
    "pink": (242, 132, 178),
    "brown": (124, 78, 44),
    "white": (242, 242, 238),
    "grey": (136, 140, 146),
    "black": (46, 46, 52),
}

PLACES: dict[str, tuple[float, float]] = {
    "upper left": (0.28, 0.28),
    "top": (0.5, 0.28),
    "upper right": (0.72, 0.28),
    "left": (0.28, 0.5),
    "centre": (0.5, 0.5),
    "right": (0.72, 0.5),
    "lower left": (0.28, 0.72),
    "bottom": (0.5, 0.72),
    "lower right": (0.72, 0.72),
}

SIZES: dict[str, float] = {"small": 0.46, "large": 0.62}

COMPANION_FRACTION = 0.5
COMPANION_SIZE = 0.22
SUPERSAMPLING = 3


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A rendered picture, its caption and its factors.

    `factors` has the keys kind, color, place, size and ground, and where there is a companion also
    companion and companion_color; each value stands in the caption.
    """

    picture: UInt8[np.ndarray, "height width 3"]
    caption: str
    factors: dict[str, str]


def render_scene(index: int, seed: int, size: int = 160) -> Scene:
    """Render scene number `index` of the endless series that belongs to `seed`."""
    rng = numpy_generator(seed, "scene", index)
    factors = {
        "kind": _choose(rng, DRAWINGS),
        "color": _choose(rng, COLORS),
        "place": _choose(rng, PLACES),
        "size": _choose(rng, SIZES),
        "ground": _choose(rng, GROUNDS),
    }
    phrase, paint = GROUNDS[factors["ground"]]
    caption = "a {size} {color} {kind} at the {place}".format(**factors) + f" {phrase}"
    canvas = paint(rng, size)
    place = PLACES[factors["place"]]
    if rng.random() < COMPANION_FRACTION:
        others = [kind for kind in DRAWINGS if kind != factors["kind"]]
        companion, color = _choose(rng, others), _choose(rng, COLORS)
        away = [0.16 if at > rng.uniform(0.4, 0.6) else 0.84 for at in place]
        _place(canvas, rng, _draw(rng, companion, color, COMPANION_SIZE * size), away)
        factors |= {"companion": companion, "companion_color": color}
        caption += f", with a {color} {companion}"
    drawing = _draw(rng, factors["kind"], factors["color"], SIZES[factors["size"]] * size)
    _place(canvas, rng, drawing, place)
    return Scene(picture=_light(canvas, rng), caption=caption, factors=factors)


def _choose(rng: np.random.Generator, names: Collection[str]) -> str:
    return list(names)[rng.integers(len(names))]


def _draw(rng: np.random.Generator, kind: str, color: str, side: float) -> Image.Image:
    """Draw an object about `side` pixels large, a little turned, stretched and off-colour."""
    tint = np.clip(np.array(COLORS[color]) + rng.normal(0, 8, 3), 0, 255).astype(int)
    with_margin = side * (100 + 2 * MARGIN) / 100
    pen = Pen(round(with_margin * SUPERSAMPLING), (int(tint[0]), int(tint[1]), int(tint[2])))
    DRAWINGS[kind](pen)
    layer = pen.layer.rotate(rng.normal(0, 6), Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        layer = layer.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    width, height = np.rint(with_margin * rng.uniform(0.92, 1.08, 2)).astype(int)
    return layer.resize((int(width), int(height)), Image.Resampling.BOX)


def _place(
    canvas: Canvas, rng: np.random.Generator, drawing: Image.Image, place: Sequence[float]
) -> None:
    """Blend a drawing and its soft shadow into the canvas, lit from a random upper side."""
    side = len(canvas)
    width, height = drawing.size
    centre = (np.array(place) + rng.uniform(-0.03, 0.03, 2)) * side
    # The drawing stays inside the picture, its margin need not.
    reach = np.array(drawing.size) / 2
    inside = reach * 100 / (100 + 2 * MARGIN)
    left, top = np.rint(np.clip(centre, inside, side - inside) - reach).astype(int)
    whole = Image.new("RGBA", (side, side))
    whole.paste(drawing, (int(left), int(top)))
    toward = rng.uniform(-1, 1)
    shadow = Image.new("L", (side, side))
    offset = (int(left - toward * width * 0.08), int(top + height * 0.06))
    shadow.paste(drawing.getchannel("A"), offset)
    shadow = shadow.filter(ImageFilter.GaussianBlur(side / 50))
    canvas *= 1 - np.asarray(shadow, np.float32)[..., None] * (0.4 / 255)

    pixels = np.asarray(whole, np.float32)
    across = (np.arange(side, dtype=np.float32) - left) / width - 0.5
    down = (np.arange(side, dtype=np.float32) - top) / height - 0.5
    shading = 1 + 0.35 * toward * across[None, :, None] - 0.4 * down[:, None, None]
    alpha = pixels[..., 3:] / 255
    canvas += (np.clip(pixels[..., :3] * shading, 0, 255) - canvas) * alpha


def _light(canvas: Canvas, rng: np.random.Generator) -> UInt8[np.ndarray, "height width 3"]:
    """Vary brightness, contrast and warmth, add a slope of light and the noise of a camera."""
    ramp = np.linspace(-0.5, 0.5, len(canvas), dtype=np.float32)
    slope = rng.normal(0, 0.12) * ramp[:, None] + rng.normal(0, 0.12) * ramp[None, :]
    warmth = rng.normal(0, 0.05)
    gain = np.array([1 + warmth, 1, 1 - warmth]) * rng.uniform(0.82, 1.12)
    contrast = rng.uniform(0.85, 1.1)
    lit = (canvas * (1 + slope[..., None]) * gain.astype(np.float32) - 118) * contrast + 118
    lit += rng.standard_normal(canvas.shape, dtype=np.float32) * rng.uniform(1, 4)
    return np.clip(lit, 0, 255).astype(np.uint8)


def _noise(
    rng: np.random.Generator, size: int, rows: int, columns: int
) -> Float32[np.ndarray, "height width 1"]:
    """Return smooth noise of about -1 to 1 with this many random values down and across."""
    coarse = Image.fromarray(rng.uniform(-1, 1, (rows, columns)).astype(np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))[..., None]


def _bands(size: int, *stops: tuple[float, Rgb]) -> Canvas:
    """Return colours interpolated down the picture between (height, colour) stops."""
    rows = (np.arange(size) + 0.5) / size
    heights = [height for height, _ in stops]
    columns = [
        np.interp(rows, heights, values) for values in np.transpose([color for _, color in stops])
    ]
    column = np.stack(columns, axis=-1).astype(np.float32)
    return np.repeat(column[:, None], size, axis=1)


def _outdoors(
    rng: np.random.Generator, size: int, far: Rgb, near: Rgb, horizon: float
) -> tuple[Canvas, int]:
    """Return a cloudy sky over a ground that goes from `far` to `near`, and the horizon's row."""
    top: Rgb = (70, 130, 205) if rng.random() < 0.7 else (165, 140, 170)
    stops = ((0.0, top), (horizon - 0.01, (210, 225, 238)), (horizon, far), (1.0, near))
    canvas = _bands(size, *stops)
    row = round(horizon * size)
    clouds = np.clip(_noise(rng, size, 12, 5) + 0.3 * _noise(rng, size, 40, 20), 0, 1)
    canvas[:row] += (248 - canvas[:row]) * clouds[:row]
    return canvas, row


def _grass(rng: np.random.Generator, size: int) -> Canvas:
    canvas, row = _outdoors(rng, size, (140, 175, 95), (52, 112, 40), rng.uniform(0.25, 0.5))
    blades = 22 * _noise(rng, size, size // 3, size) + 16 * _noise(rng, size, 10, 10)
    canvas[row:] += blades[row:]
    return canvas


def _beach(rng: np.random.Generator, size: int) -> Canvas:
    shore = rng.uniform(0.45, 0.6)
    canvas, row = _outdoors(rng, size, (226, 204, 160), (205, 172, 118), shore)
    sea = round(row - size * rng.uniform(0.12, 0.2))
    canvas[sea:row] = (60, 140, 170) + 18 * _noise(rng, size, size // 2, 12)[sea:row]
    canvas[row - 2 : row + 1] = (240, 246, 246)
    canvas[row + 1 :] += 12 * _noise(rng, size, size, size)[row + 1 :]
    return canvas + 6 * _noise(rng, size, 30, 8)


def _sea(rng: np.random.Generator, size: int) -> Canvas:
    canvas, row = _outdoors(rng, size, (100, 165, 190), (14, 62, 104), rng.uniform(0.2, 0.45))
    waves = 20 * _noise(rng, size, size // 3, 14) + 14 * _noise(rng, size, 20, 5)
    canvas[row:] += waves[row:]
    return canvas


def _snow(rng: np.random.Generator, size: int) -> Canvas:
    canvas, row = _outdoors(rng, size, (222, 230, 240), (246, 248, 252), rng.uniform(0.35, 0.5))
    image = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    pencil = ImageDraw.Draw(image)
    for x in rng.uniform(0, size, 9):
        height, green = rng.uniform(0.08, 0.2) * size, int(rng.integers(60, 90))
        feet = [(x - height / 3, row + 2), (x + height / 3, row + 2)]
        pencil.polygon([(x, row - height), *feet], fill=(40, green, 66))
    canvas = np.asarray(image, np.float32) + 7 * _noise(rng, size, 14, 5)
    flakes = rng.random((size, size, 1)) < 0.004
    return np.where(flakes, np.float32(255), canvas)


def _desert(rng: np.random.Generator, size: int) -> Canvas:
    canvas, row = _outdoors(rng, size, (232, 170, 98), (196, 112, 52), rng.uniform(0.3, 0.5))
    x = np.arange(size) / size
    for depth in (0.0, 0.15, 0.35):
        dune = np.sin(x * rng.uniform(4, 9) + rng.uniform(0, 6)) * 0.06 + depth
        below = np.arange(size)[:, None] > row + dune[None, :] * size
        canvas[below] += rng.uniform(-22, 12)
    canvas[row:] += 9 * _noise(rng, size, size // 3, 10)[row:]
    return canvas


def _mountains(rng: np.random.Generator, size: int) -> Canvas:
    canvas, row = _outdoors(rng, size, (120, 150, 90), (70, 110, 60), rng.uniform(0.6, 0.75))
    rows = np.arange(size)[:, None]
    for share, color in ((0.5, (142, 156, 186)), (0.3, (92, 106, 132))):
        ridge = np.interp(np.arange(size), np.linspace(0, size, 9), rng.uniform(0.4, 1, 9))
        ridge = ridge + 0.08 * _noise(rng, size, 2, 40)[0, :, 0]
        crest = row - share * size * ridge
        inside = (rows > crest) & (rows < row)
        canvas[inside] = color
        canvas[inside & (rows < crest + 0.05 * size)] = (238, 242, 248)
    return canvas + 10 * _noise(rng, size, 40, 40)


def _forest(rng: np.random.Generator, size: int) -> Canvas:
    canvas = _bands(size, (0.0, (96, 142, 78)), (0.6, (150, 178, 108)), (1.0, (66, 74, 36)))
    canvas += 34 * _noise(rng, size, 24, 24)
    for depth in np.sort(rng.random(12)):
        left, width = rng.uniform(0, size), (0.02 + 0.06 * depth) * size
        columns = slice(round(left), round(left + width))
        foot = round((0.62 + 0.25 * depth) * size)
        bark = np.array([118, 96, 74]) * (1.1 - 0.6 * depth) + rng.normal(0, 6, 3)
        grain = 14 * _noise(rng, size, 12, size)[:foot, columns]
        canvas[:foot, columns] = bark.astype(np.float32) + grain
    crowns = np.clip(np.linspace(1, -2, size, dtype=np.float32), 0, 1)[:, None, None]
    return canvas + crowns * (60 * _noise(rng, size, 30, 30) - 40)


def _city_street(rng: np.random.Generator, size: int) -> Canvas:
    canvas, row = _outdoors(rng, size, (120, 120, 124), (74, 74, 80), rng.uniform(0.55, 0.7))
    left = 0
    while left < size:
        right = left + int(rng.uniform(0.12, 0.26) * size)
        roof = int(row - rng.uniform(0.25, 0.55) * size)
        wall = rng.uniform(90, 190) + rng.uniform(-20, 20, 3)
        canvas[max(roof, 0) : row, left:right] = wall
        window = (250, 226, 150) if rng.random() < 0.4 else (70, 84, 104)
        step = max(4, size // 18)
        for y in range(max(roof, 0) + 3, row - step, step):
            for x in range(left + 3, min(right, size) - step // 2, step):
                canvas[y : y + step // 2, x : x + step // 2] = window
        left = right
    canvas[row : row + size // 20] = (176, 172, 166)
    middle = round((row + size) / 2) + size // 40
    for x in range(int(rng.integers(0, size // 5)), size, size // 4):
        canvas[middle : middle + max(2, size // 50), x : x + size // 8] = (238, 236, 220)
    return canvas + 6 * _noise(rng, size, size, size)


def _brick_wall(rng: np.random.Generator, size: int) -> Canvas:
    height, width = size * rng.uniform(0.055, 0.08), size * rng.uniform(0.14, 0.2)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    row = y // height
    shifted = x + (row % 2) * width / 2
    brick = (row * 31 + shifted // width).astype(int)
    tone = rng.normal(0, 14, brick.max() + 1)[brick]
    mortar = (y % height < 1.6) | (shifted % width < 1.6)
    base = np.array([162, 82, 62]) + rng.normal(0, 12, 3)
    canvas = np.where(mortar[..., None], (198, 190, 180), base + tone[..., None])
    return canvas.astype(np.float32) + 9 * _noise(rng, size, size // 2, size // 2)


def _wooden_table(rng: np.random.Generator, size: int) -> Canvas:
    plank = size / int(rng.integers(4, 7))
    rows = np.arange(size)
    tone = rng.normal(0, 12, 8)[(rows // plank).astype(int)] - 45 * (rows % plank < 1.5)
    base = (np.array([172, 116, 66]) + rng.normal(0, 14, 3)).astype(np.float32)
    grain = 20 * _noise(rng, size, size // 2, 4) + 10 * _noise(rng, size, 12, 3)
    return base + tone[:, None, None].astype(np.float32) + grain


def _night_sky(rng: np.random.Generator, size: int) -> Canvas:
    canvas = _bands(size, (0.0, (18, 22, 66)), (1.0, (74, 62, 134)))
    canvas += 14 * np.clip(_noise(rng, size, 5, 5), 0, 1) * np.array([1.6, 0.8, 1.8], np.float32)
    for _ in range(90):
        y, x = rng.integers(0, size, 2)
        canvas[y : y + int(rng.integers(1, 3)), x : x + 1] = rng.uniform(140, 255)
    moon_x, moon_y = rng.uniform(0.1, 0.9, 2) * size
    y, x = np.mgrid[:size, :size]
    canvas[np.hypot(x - moon_x, y - moon_y) < 0.07 * size] = (236, 232, 206)
    return canvas


def _checked_cloth(rng: np.random.Generator, size: int) -> Canvas:
    color = np.array(COLORS[_choose(rng, COLORS)], np.float32)
    cell = size * rng.uniform(0.08, 0.13)
    stripe = (np.arange(size) + rng.uniform(0, size)) // cell % 2
    dark = (stripe[:, None] + stripe[None, :])[..., None].astype(np.float32) / 2
    weave = 8 * _noise(rng, size, size, size)
    return (1 - dark) * np.float32(240) + dark * color + weave + 10 * _noise(rng, size, 5, 5)


def _cloudy_sky(rng: np.random.Generator, size: int) -> Canvas:
    canvas = _bands(size, (0.0, (56, 118, 204)), (1.0, (170, 208, 240)))
    puffs = (
        _noise(rng, size, 6, 5) + 0.5 * _noise(rng, size, 14, 12) + 0.2 * _noise(rng, size, 40, 40)
    )
    return canvas + (250 - canvas) * np.clip(1.4 * puffs, 0, 1)


def _tiled_floor(rng: np.random.Generator, size: int) -> Canvas:
    # Perspective: a row of the picture at height y below the wall lies 1 / y away.
    wall = round(rng.uniform(0.2, 0.35) * size)
    below = (np.arange(size) - wall + 0.25 * size)[wall:, None] / size
    depth = 0.9 / below
    across = (np.arange(size)[None, :] / size - 0.5) / below
    checks = (np.floor(depth * 2.5 + rng.uniform()) + np.floor(across * 2.2 + rng.uniform())) % 2
    tones = rng.uniform(90, 140) + rng.normal(0, 14, 3), rng.uniform(190, 235) + rng.normal(0, 8, 3)
    paint = rng.uniform(120, 215, 3).astype(np.float32)
    canvas = np.broadcast_to(paint, (size, size, 3)).copy()
    canvas[wall:] = np.where(checks[..., None] > 0, *tones)
    canvas[wall - size // 40 : wall] = (236, 234, 228)
    return canvas + 5 * _noise(rng, size, size // 2, size // 2) + 8 * _noise(rng, size, 4, 4)


GROUNDS: dict[str, tuple[str, Callable[[np.random.Generator, int], Canvas]]] = {
    "grass": ("on grass", _grass),
    "beach": ("on a beach", _beach),
    "sea": ("on the sea", _sea),
    "snow": ("on snow", _snow),
    "desert": ("in a desert", _desert),
    "mountains": ("before mountains", _mountains),
    "forest": ("in a forest", _forest),
    "city street": ("in a city street", _city_street),
    "brick wall": ("before a brick wall", _brick_wall),
    "wooden table": ("on a wooden table", _wooden_table),
    "night sky": ("in the night sky", _night_sky),
    "checked cloth": ("on a checked cloth", _checked_cloth),
    "cloudy sky": ("in a cloudy sky", _cloudy_sky),
    "tiled floor": ("on a tiled floor", _tiled_floor),
}
"""Words of the caption, and the function that paints the ground."""
