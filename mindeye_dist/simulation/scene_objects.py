"""Drawings of the objects of the rendered scenes.

`DRAWINGS` maps the name of a kind to a function that draws it with a `Pen` in a box of 100 x 100
units, x to the right and y downwards. Polygons are written as in SVG: "x,y x,y ...". An ink is one
of the shades of the object's own colour ("main", "light", "dark", "line") or a fixed colour.
"""

from collections.abc import Callable
from typing import Any

from PIL import Image, ImageDraw

Rgb = tuple[int, int, int]
Units = float | int

MARGIN = 10
"""Units left free around the box, so that a rotated drawing keeps its corners."""

FIXED_INKS: dict[str, Rgb] = {
    "white": (245, 245, 240),
    "black": (35, 35, 40),
    "silver": (180, 184, 190),
    "wood": (140, 92, 52),
    "glass": (165, 208, 232),
    "leaf": (62, 135, 58),
    "gold": (240, 190, 60),
    "rose": (235, 120, 130),
}


class Pen:
    """Draws outlined shapes on a transparent layer of `side` pixels."""

    def __init__(self, side: int, color: Rgb) -> None:
        self._unit = side / (100 + 2 * MARGIN)
        # Lines on a dark object are bright, or the details would vanish.
        line = _mix(color, (0, 0, 0), 0.68) if sum(color) > 200 else _mix(color, (255,) * 3, 0.5)
        self._inks = FIXED_INKS | {
            "main": color,
            "light": _mix(color, (255, 255, 255), 0.45),
            "dark": _mix(color, (0, 0, 0), 0.35),
            "line": line,
        }
        # Transparent pixels carry the outline's colour, so that resampling leaves no fringe.
        self.layer = Image.new("RGBA", (side, side), (*line, 0))
        self._draw = ImageDraw.Draw(self.layer)

    def polygon(self, ink: str, points: str) -> None:
        """Fill the polygon through `points`, written "x,y x,y ..."."""
        self._draw.polygon(self._points(points), **self._style(ink))

    def disc(self, ink: str, x: Units, y: Units, across: Units, down: Units = 0) -> None:
        """Fill the ellipse round (`x`, `y`) with these radii, or the circle if one is given."""
        frame = self._frame(x, y, across, down or across)
        self._draw.ellipse(frame, **self._style(ink))

    def box(self, ink: str, left: Units, top: Units, right: Units, bottom: Units) -> None:
        """Fill the rectangle."""
        across, down = (right - left) / 2, (bottom - top) / 2
        frame = self._frame(left + across, top + down, across, down)
        self._draw.rectangle(frame, **self._style(ink))

    def chord(self, ink: str, x: Units, y: Units, radius: Units, angles: tuple[int, int]) -> None:
        """Fill a part of a disc, with angles clockwise in degrees from the right."""
        self._draw.chord(self._frame(x, y, radius, radius), *angles, **self._style(ink))

    def arc(self, ink: str, x: Units, y: Units, radius: Units, angles: tuple[int, int]) -> None:
        """Stroke a part of a circle, with angles clockwise in degrees from the right."""
        frame = self._frame(x, y, radius, radius)
        self._draw.arc(frame, *angles, fill=self._inks[ink], width=round(4 * self._unit))

    def line(self, ink: str, points: str, width: Units = 2) -> None:
        """Stroke the line through `points`, written "x,y x,y ..."."""
        pixels = max(1, round(width * self._unit))
        self._draw.line(self._points(points), self._inks[ink], pixels, joint="curve")

    def _style(self, ink: str) -> dict[str, Any]:
        width = max(1, round(1.3 * self._unit))
        return {"fill": self._inks[ink], "outline": self._inks["line"], "width": width}

    def _frame(self, x: Units, y: Units, across: Units, down: Units) -> list[float]:
        corners = (x - across, y - down, x + across, y + down)
        return [(value + MARGIN) * self._unit for value in corners]

    def _points(self, points: str) -> list[tuple[float, ...]]:
        pairs = (pair.split(",") for pair in points.split())
        return [tuple((float(value) + MARGIN) * self._unit for value in pair) for pair in pairs]


def _mix(color: Rgb, other: Rgb, amount: Units) -> Rgb:
    red, green, blue = (round(a + (b - a) * amount) for a, b in zip(color, other, strict=True))
    return red, green, blue


def _house(pen: Pen) -> None:
    pen.box("dark", 68, 10, 78, 40)
    pen.box("main", 16, 44, 84, 96)
    pen.polygon("dark", "6,46 50,8 94,46")
    pen.box("wood", 43, 66, 58, 96)
    for left in (23, 65):
        pen.box("glass", left, 56, left + 13, 70)
        pen.line("line", f"{left + 6.5},56 {left + 6.5},70")


def _car(pen: Pen) -> None:
    pen.polygon("main", "22,48 34,26 68,26 82,48")
    pen.polygon("glass", "29,47 37,31 50,31 50,47")
    pen.polygon("glass", "54,47 54,31 66,31 75,47")
    pen.polygon("main", "2,52 10,47 90,47 98,55 98,72 2,72")
    pen.box("gold", 92, 53, 98, 60)
    pen.line("line", "52,48 52,72")
    for x in (24, 76):
        pen.disc("black", x, 73, 12)
        pen.disc("silver", x, 73, 6)


def _tree(pen: Pen) -> None:
    pen.polygon("wood", "43,98 46,60 56,60 60,98")
    for x, y, radius in ((28, 52, 21), (72, 52, 21), (38, 30, 22), (62, 30, 22), (50, 52, 22)):
        pen.disc("main", x, y, radius)
    for x, y in ((30, 48), (66, 54), (42, 24), (60, 34)):
        pen.disc("light", x, y, 5)


def _sailing_boat(pen: Pen) -> None:
    pen.line("wood", "50,4 50,76", 4)
    pen.polygon("main", "54,6 54,68 92,68")
    pen.polygon("white", "46,16 46,68 14,68")
    pen.polygon("wood", "4,74 96,74 82,94 18,94")


def _fish(pen: Pen) -> None:
    pen.polygon("dark", "70,50 98,24 92,50 98,76")
    pen.polygon("dark", "34,30 56,12 66,34")
    pen.disc("main", 42, 50, 38, 25)
    pen.polygon("light", "44,52 62,48 58,66")
    pen.arc("line", 14, 51, 20, (-42, 42))
    pen.disc("white", 20, 43, 6)
    pen.disc("black", 19, 43, 2.5)


def _cat(pen: Pen) -> None:
    pen.polygon("main", "14,50 14,6 44,26")
    pen.polygon("main", "86,50 86,6 56,26")
    pen.polygon("rose", "20,34 20,17 33,26")
    pen.polygon("rose", "80,34 80,17 67,26")
    pen.disc("main", 50, 56, 40, 36)
    for x in (33, 67):
        pen.disc("gold", x, 48, 8, 9)
        pen.disc("black", x, 48, 2.5, 8)
    pen.polygon("rose", "44,62 56,62 50,69")
    pen.line("line", "50,69 50,75 40,79 50,75 60,79")
    for y in (62, 70):
        pen.line("line", f"34,{y + 2} 2,{y - 4}", 1.5)
        pen.line("line", f"66,{y + 2} 98,{y - 4}", 1.5)


def _dog(pen: Pen) -> None:
    pen.disc("main", 50, 48, 33, 38)
    pen.disc("dark", 16, 48, 12, 32)
    pen.disc("dark", 84, 48, 12, 32)
    pen.disc("light", 50, 68, 21, 22)
    pen.disc("rose", 50, 88, 7, 11)
    pen.disc("black", 50, 58, 9, 7)
    pen.line("line", "36,78 50,74 64,78", 3)
    for x in (37, 63):
        pen.disc("white", x, 38, 7)
        pen.disc("black", x, 39, 4)


def _bird(pen: Pen) -> None:
    pen.polygon("dark", "66,52 98,34 96,58 72,66")
    pen.line("wood", "44,78 40,96 30,96", 3)
    pen.line("wood", "54,78 54,96 44,96", 3)
    pen.disc("main", 52, 58, 29, 22)
    pen.disc("main", 28, 34, 17)
    pen.polygon("gold", "13,30 -4,38 14,42")
    pen.polygon("dark", "42,48 76,50 58,72 46,64")
    pen.disc("white", 24, 30, 5)
    pen.disc("black", 23, 30, 2.5)


def _butterfly(pen: Pen) -> None:
    for side in (-1, 1):
        pen.disc("main", 50 + side * 25, 34, 23, 26)
        pen.disc("dark", 50 + side * 20, 72, 17, 19)
        pen.disc("light", 50 + side * 28, 32, 10)
        pen.disc("light", 50 + side * 21, 74, 6)
        pen.line("line", f"50,20 {50 + side * 12},2", 2)
    pen.disc("black", 50, 52, 5, 34)


def _clock(pen: Pen) -> None:
    for x in (24, 76):
        pen.disc("dark", x, 16, 13)
    pen.line("dark", "26,84 16,97", 6)
    pen.line("dark", "74,84 84,97", 6)
    pen.disc("main", 50, 52, 42)
    pen.disc("white", 50, 52, 33)
    for mark in ("50,22 50,28", "50,76 50,82", "20,52 26,52", "74,52 80,52"):
        pen.line("black", mark, 3)
    pen.line("black", "50,52 50,30", 4)
    pen.line("black", "50,52 66,60", 4)


def _cup(pen: Pen) -> None:
    pen.arc("main", 76, 56, 19, (-100, 100))
    pen.polygon("main", "12,32 78,32 70,88 20,88")
    pen.disc("light", 45, 32, 33, 9)
    pen.disc("wood", 45, 33, 26, 5)
    pen.disc("light", 45, 92, 40, 6)
    for x in (34, 54):
        pen.line("white", f"{x},20 {x + 4},13 {x - 2},7 {x + 2},0", 2.5)


def _chair(pen: Pen) -> None:
    pen.line("dark", "34,84 34,58 82,58 82,84", 5)
    pen.box("main", 22, 4, 30, 97)
    pen.box("main", 70, 66, 76, 97)
    pen.polygon("main", "30,6 44,2 44,50 30,58")
    pen.line("line", "37,8 37,52", 2)
    pen.polygon("light", "20,62 36,50 92,50 78,62")
    pen.box("main", 20, 62, 78, 69)


def _ball(pen: Pen) -> None:
    pen.disc("main", 50, 50, 44)
    pen.polygon("white", "50,32 67,44 60,64 40,64 33,44")
    for spoke in ("50,32 50,7", "67,44 91,36", "60,64 75,85", "40,64 25,85", "33,44 9,36"):
        pen.line("line", spoke, 2.5)
    for patch in ("36,8 64,8 50,17", "93,40 88,68 82,52", "7,40 12,68 18,52", "30,90 68,91 50,82"):
        pen.polygon("white", patch)


def _umbrella(pen: Pen) -> None:
    pen.line("wood", "50,4 50,84", 4)
    pen.arc("wood", 58, 84, 9, (0, 180))
    pen.chord("main", 50, 52, 46, (180, 360))
    for x in (19.5, 50, 80.5):
        pen.disc("light" if x == 50 else "main", x, 52, 15, 6)
    pen.polygon("light", "50,6 35,52 65,52")


def _mushroom(pen: Pen) -> None:
    pen.polygon("white", "38,50 62,50 68,96 32,96")
    pen.chord("main", 50, 52, 44, (180, 360))
    pen.disc("light", 50, 52, 44, 7)
    for x, y, radius in ((30, 32, 7), (52, 20, 8), (70, 36, 7), (48, 39, 4), (16, 43, 4)):
        pen.disc("white", x, y, radius)


def _flower(pen: Pen) -> None:
    pen.line("leaf", "50,40 50,98", 5)
    pen.polygon("leaf", "50,88 22,66 46,74")
    pen.polygon("leaf", "50,80 80,60 55,68")
    for x, y in ((50, 14), (71, 26), (67, 49), (33, 49), (29, 26)):
        pen.disc("main", x, y, 14)
    pen.disc("gold", 50, 33, 12)


def _rocket(pen: Pen) -> None:
    pen.polygon("gold", "40,78 50,99 60,78")
    pen.polygon("dark", "34,54 16,84 36,78")
    pen.polygon("dark", "66,54 84,84 64,78")
    pen.polygon("white", "50,2 62,18 67,40 64,80 36,80 33,40 38,18")
    pen.polygon("main", "50,2 62,18 64,26 36,26 38,18")
    pen.disc("glass", 50, 42, 9)
    pen.box("main", 35, 64, 65, 74)


def _star(pen: Pen) -> None:
    pen.polygon("main", "50,3 62,37 97,38 69,59 79,94 50,73 21,94 31,59 3,38 38,37")
    for tip in ("50,3", "97,38", "79,94", "21,94", "3,38"):
        pen.line("light", f"50,52 {tip}", 1.5)


def _airplane(pen: Pen) -> None:
    pen.polygon("dark", "46,44 70,10 80,10 64,44")
    pen.polygon("main", "86,44 88,20 98,20 98,52")
    pen.polygon("main", "2,52 12,42 30,40 98,44 98,56 30,64 10,60")
    pen.polygon("glass", "8,49 14,43 22,42 20,50")
    for x in range(30, 84, 9):
        pen.disc("glass", x, 48, 2.5)
    pen.polygon("dark", "40,56 66,56 82,92 70,92")


def _apple(pen: Pen) -> None:
    pen.disc("main", 50, 60, 42, 36)
    pen.polygon("dark", "36,28 50,36 64,28 50,24")
    pen.line("wood", "50,32 48,18 54,4", 5)
    pen.polygon("leaf", "54,18 66,4 88,6 74,22")
    pen.disc("light", 24, 52, 7, 12)


def _banana(pen: Pen) -> None:
    pen.polygon("main", "12,20 18,46 34,64 58,74 92,64 96,70 84,86 62,94 38,90 16,72 4,46 4,22")
    pen.line("light", "12,40 24,62 44,78 70,82", 4)
    pen.polygon("wood", "2,10 12,8 12,22 4,24")
    pen.polygon("black", "91,63 98,62 99,70 95,72")


def _key(pen: Pen) -> None:
    pen.box("main", 44, 42, 98, 54)
    pen.box("main", 72, 50, 80, 72)
    pen.box("main", 88, 50, 96, 78)
    pen.disc("main", 26, 48, 24)
    pen.disc("dark", 22, 48, 11)


def _guitar(pen: Pen) -> None:
    pen.box("wood", 45, 8, 55, 60)
    pen.polygon("dark", "41,-4 59,-4 57,12 43,12")
    pen.disc("main", 50, 78, 29, 22)
    pen.disc("main", 50, 52, 21, 16)
    pen.disc("main", 50, 66, 17, 14)
    pen.disc("black", 50, 60, 9)
    pen.box("wood", 38, 82, 62, 87)
    for x in (47, 50, 53):
        pen.line("silver", f"{x},2 {x},84", 1)


def _lamp(pen: Pen) -> None:
    pen.disc("dark", 50, 92, 27, 7)
    pen.box("silver", 46, 48, 54, 90)
    pen.polygon("main", "32,6 68,6 92,52 8,52")
    pen.polygon("light", "42,6 50,6 46,52 28,52")
    pen.line("gold", "70,54 70,70", 2)
    pen.disc("gold", 70, 72, 3)


def _bicycle(pen: Pen) -> None:
    for x in (23, 77):
        pen.arc("black", x, 66, 23, (0, 360))
        for spoke in (f"{x - 21},66 {x + 21},66", f"{x},45 {x},87"):
            pen.line("silver", spoke, 1)
    pen.line("main", "23,66 36,36 66,36 48,66 23,66", 5)
    pen.line("main", "33,28 48,66", 5)
    pen.line("main", "77,66 63,22", 5)
    pen.line("black", "24,27 42,27", 6)
    pen.line("black", "54,18 64,22 76,16", 4)
    pen.disc("silver", 48, 66, 6)


def _tent(pen: Pen) -> None:
    pen.polygon("dark", "38,14 74,14 98,90 62,90")
    pen.polygon("main", "38,12 4,90 72,90")
    pen.polygon("black", "38,30 24,90 52,90")
    pen.polygon("light", "38,30 24,90 32,90")
    pen.line("line", "38,12 38,2", 2.5)
    pen.line("line", "4,90 -4,98", 2)


def _snowman(pen: Pen) -> None:
    pen.disc("white", 50, 76, 24)
    pen.disc("white", 50, 46, 18)
    pen.disc("white", 50, 23, 14)
    pen.box("main", 38, -4, 62, 10)
    pen.box("main", 30, 9, 70, 14)
    pen.polygon("main", "36,32 64,32 66,39 72,58 62,58 58,40 36,40")
    pen.polygon("gold", "50,22 50,28 26,27")
    pen.line("wood", "32,44 6,32", 3)
    pen.line("wood", "68,44 94,32", 3)
    for x, y in ((44, 19), (56, 19), (50, 50), (50, 68), (50, 80)):
        pen.disc("black", x, y, 2.2)


def _ladder(pen: Pen) -> None:
    for y in range(14, 96, 16):
        pen.line("main", f"{35 - y / 8},{y} {65 + y / 8},{y}", 5)
    for foot, top in ((20, 34), (80, 66)):
        pen.line("line", f"{top},0 {foot},99", 9)
        pen.line("main", f"{top},1 {foot},98", 6.5)


def _balloon(pen: Pen) -> None:
    pen.disc("main", 50, 38, 40)
    pen.disc("light", 50, 38, 24, 40)
    pen.disc("main", 50, 38, 9, 40)
    pen.line("line", "38,76 42,88 58,88 62,76", 1.5)
    pen.box("wood", 40, 86, 60, 99)


def _crown(pen: Pen) -> None:
    pen.polygon("main", "10,84 4,26 28,54 50,14 72,54 96,26 90,84")
    pen.box("dark", 10, 74, 90, 90)
    for x, y in ((4, 24), (50, 12), (96, 24)):
        pen.disc("light", x, y, 6)
    for x in (26, 50, 74):
        pen.disc("rose", x, 82, 5)


_FUNCTIONS = (
    *(_house, _car, _tree, _sailing_boat, _fish, _cat, _dog, _bird, _butterfly, _clock, _cup),
    *(_chair, _ball, _umbrella, _mushroom, _flower, _rocket, _star, _airplane, _apple, _banana),
    *(_key, _guitar, _lamp, _bicycle, _tent, _snowman, _ladder, _balloon, _crown),
)

DRAWINGS: dict[str, Callable[[Pen], None]] = {
    function.__name__.strip("_").replace("_", " "): function for function in _FUNCTIONS
}
