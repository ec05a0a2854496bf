"""Tuning: the features that simulated voxels respond to, and the tuning's layout on the sheet.

Pictures come in as encoder `clip_tokens` (pictures, tokens, dim) and as small RGB pictures
(pictures, height, width, 3); features (pictures, features) go out: first semantic components, then
low-level ones. A subject's voxels lie on a sheet of two hemispheres. Early voxels see the low-level
features through Gaussian receptive fields (St-Yves & Naselaris, 2018); higher voxels are tuned to
the semantic ones, neighbours alike.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Num

from mindeye_dist.errors import InputError
from mindeye_dist.simulation.config import SimulationConfig

ROIS = ("V1", "V2", "V3", "hV4", "ventral", "lateral", "parietal")
NUM_EARLY = 4
ROI_VOXELS = (1350, 1433, 1187, 687, 4447, 4558, 2062)
"""NSD's subject 1; the 11,067 higher voxels are shared out as the three streams' sizes are."""
FIELD_SIZES = (0.10, 0.15, 0.20, 0.35)
"""Growth of the receptive field's width with eccentricity in V1, V2, V3, hV4."""

GRID = 8
"""The low-level features are taken on a grid of 8 x 8 places."""


@dataclass(frozen=True, kw_only=True)
class FeatureSpace:
    """The feature space that all subjects share, fitted on the training pictures."""

    token_mean: Float[np.ndarray, " token_values"]
    token_components: Float[np.ndarray, "semantic token_values"]
    """Rows map centred clip_tokens to whitened components."""
    lowlevel_mean: Float[np.ndarray, " grid_values"]
    lowlevel_components: Float[np.ndarray, "lowlevel grid_values"]
    """Rows map centred grid values to whitened components."""
    lowlevel_loadings: Float[np.ndarray, "lowlevel grid_values"]
    """Rows map components back: grid values = lowlevel_mean + components @ lowlevel_loadings."""
    covariance: Float[np.ndarray, "features features"]
    token_covariance: Float[np.ndarray, "features token_values"]
    """Covariance of features and clip_tokens: what a linear decoder needs to predict tokens."""

    def __call__(
        self,
        clip_tokens: Float[np.ndarray, "pictures tokens dim"],
        pictures: Num[np.ndarray, "pictures height width 3"],
    ) -> Float[np.ndarray, "pictures features"]:
        """Return each picture's features: whitened semantic components, then low-level ones."""
        _check_pictures(clip_tokens, pictures)
        values = clip_tokens.reshape(len(clip_tokens), -1)
        if values.shape[1] != len(self.token_mean):
            raise InputError(
                f"clip_tokens have {values.shape[1]} values a picture, "
                f"expected {len(self.token_mean)}"
            )
        # The mean is taken off afterwards: a centred copy of all tokens may not fit into memory.
        offset = self.token_components @ self.token_mean
        semantic = values @ self.token_components.T - offset
        grid = lowlevel_grid(pictures) - self.lowlevel_mean
        lowlevel = grid @ self.lowlevel_components.T
        return np.concatenate([semantic, lowlevel], axis=1).astype(np.float32)

    @property
    def num_semantic(self) -> int:
        """Number of semantic components, which come first among the features."""
        return len(self.token_components)


def fit_feature_space(
    clip_tokens: Float[np.ndarray, "pictures tokens dim"],
    pictures: Num[np.ndarray, "pictures height width 3"],
    *,
    num_semantic: int,
    num_lowlevel: int,
) -> FeatureSpace:
    """Fit the principal components of the training pictures' clip_tokens and low-level values.

    Args:
        clip_tokens: Tokens of the training pictures.
        pictures: The same pictures, small (32 x 32 is enough), 0..255 as uint8 or 0..1 as float.
        num_semantic: Components of the flattened tokens.
        num_lowlevel: Components of the low-level grid.

    Raises:
        InputError: too few pictures, shapes that disagree, or values that are not finite.
    """
    _check_pictures(clip_tokens, pictures)
    num_pictures = len(clip_tokens)
    if num_pictures < 2 * (num_semantic + num_lowlevel):
        raise InputError(
            f"got {num_pictures} training pictures, expected at least "
            f"{2 * (num_semantic + num_lowlevel)} for {num_semantic} semantic and {num_lowlevel} "
            "low-level components"
        )
    values = clip_tokens.reshape(num_pictures, -1).astype(np.float32)
    token_mean = values.mean(axis=0)
    values -= token_mean
    semantic, token_components, _ = _whiten(values, num_semantic)
    grid = lowlevel_grid(pictures)
    lowlevel_mean = grid.mean(axis=0)
    lowlevel, lowlevel_components, lowlevel_loadings = _whiten(grid - lowlevel_mean, num_lowlevel)
    features = np.concatenate([semantic, lowlevel], axis=1)
    return FeatureSpace(
        token_mean=token_mean,
        token_components=token_components,
        lowlevel_mean=lowlevel_mean,
        lowlevel_components=lowlevel_components,
        lowlevel_loadings=lowlevel_loadings,
        covariance=features.T @ features / num_pictures,
        token_covariance=features.T @ values / num_pictures,
    )


def lowlevel_grid(
    pictures: Num[np.ndarray, "pictures height width 3"],
) -> Float[np.ndarray, "pictures grid_values"]:
    """Return luminance, two opponent colours and oriented contrast on a grid of 8 x 8 places."""
    num_pictures, height, width, _ = pictures.shape
    if height % GRID or width % GRID:
        raise InputError(f"pictures are {height} x {width}, expected multiples of {GRID}")
    rgb = pictures.astype(np.float32) / (255 if pictures.dtype == np.uint8 else 1)
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    luminance = (red + green + blue) / 3
    down, right = np.gradient(luminance, axis=(1, 2))
    edges = [down, right, (down + right) / 2**0.5, (down - right) / 2**0.5]
    channels = np.stack(
        [luminance, red - green, blue - (red + green) / 2, *(edge**2 for edge in edges)], axis=1
    )
    blocks = channels.reshape(
        num_pictures, len(CHANNEL_GAINS), GRID, height // GRID, GRID, width // GRID
    )
    means = blocks.mean(axis=(3, 5))
    means[:, -len(edges) :] **= 0.5
    means *= np.array(CHANNEL_GAINS, np.float32)[:, None, None]
    return means.reshape(num_pictures, -1)


CHANNEL_GAINS = (1.0, 2.0, 2.0, 3.0, 3.0, 3.0, 3.0)
"""Bring luminance, opponent colours and oriented contrast to like variances."""


def _whiten(
    values: Float[np.ndarray, "pictures values"], num_components: int
) -> tuple[
    Float[np.ndarray, "pictures components"],
    Float[np.ndarray, "components values"],
    Float[np.ndarray, "components values"],
]:
    from sklearn.utils.extmath import randomized_svd  # takes seconds to import

    scores, spread, axes = randomized_svd(values, num_components, random_state=0)
    deviations = spread / len(values) ** 0.5
    if deviations[-1] < 1e-4 * deviations[0]:
        raise InputError(
            f"the training pictures vary in fewer than {num_components} directions, expected more"
        )
    whitened = scores * len(values) ** 0.5
    return (
        whitened.astype(np.float32),
        (axes / deviations[:, None]).astype(np.float32),
        (axes * deviations[:, None]).astype(np.float32),
    )


def _check_pictures(clip_tokens: np.ndarray, pictures: np.ndarray) -> None:
    if len(clip_tokens) != len(pictures):
        raise InputError(f"got clip_tokens of {len(clip_tokens)} and {len(pictures)} pictures")
    if not np.isfinite(clip_tokens).all():
        raise InputError("clip_tokens hold values that are not finite")
    if not np.isfinite(pictures).all():
        raise InputError("pictures hold values that are not finite")


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Where a subject's voxels lie: two flat hemispheres, early areas at the back."""

    hemisphere: Int[np.ndarray, " voxels"]
    """0 is left, 1 is right."""
    row: Int[np.ndarray, " voxels"]
    column: Int[np.ndarray, " voxels"]
    roi: Int[np.ndarray, " voxels"]
    """Index into `ROIS`."""

    @property
    def early(self) -> np.ndarray:
        """True for voxels of V1, V2, V3 and hV4."""
        return self.roi < NUM_EARLY

    @property
    def positions(self) -> Float[np.ndarray, "voxels 3"]:
        """Hemisphere, row and column of every voxel."""
        return np.stack([self.hemisphere, self.row, self.column], axis=1).astype(np.float32)


def make_sheet(num_voxels: int, early_fraction: float) -> Sheet:
    """Lay the voxels on two square hemispheres and name their ROIs by position.

    The early areas are strips at the back (low rows), V1 first; the rest is split by column into
    ventral, lateral and parietal. Proportions inside either part are those of NSD's subject 1.
    """
    counts = np.array(ROI_VOXELS, float)
    counts[:NUM_EARLY] *= early_fraction / counts[:NUM_EARLY].sum()
    counts[NUM_EARLY:] *= (1 - early_fraction) / counts[NUM_EARLY:].sum()
    bounds = np.cumsum(counts)
    parts = []
    for side, size in enumerate((num_voxels - num_voxels // 2, num_voxels // 2)):
        columns = int(np.ceil(size**0.5))
        row, column = np.divmod(np.arange(size), columns)
        ends = np.round(bounds * size).astype(int)
        roi = np.zeros(size, int)
        num_early = ends[NUM_EARLY - 1]
        roi[:num_early] = np.searchsorted(ends[:NUM_EARLY], np.arange(num_early), side="right")
        by_column = num_early + np.argsort(column[num_early:], kind="stable")
        roi[by_column] = np.searchsorted(ends, np.arange(num_early, size), side="right")
        parts.append(np.stack([np.full(size, side), row, column, roi]))
    hemispheres, rows, columns, rois = np.concatenate(parts, axis=1)
    return Sheet(hemisphere=hemispheres, row=rows, column=columns, roi=rois)


class SmoothField:
    """Smooth random fields on the sheet: white noise on knots, spread by Gaussians.

    Every voxel has unit variance, and the field's covariance is exactly `matrix @ matrix.T`.
    """

    def __init__(self, sheet: Sheet, fwhm: float) -> None:
        sigma = fwhm / 8**0.5 / np.log(2) ** 0.5
        self._sheet = sheet
        self._rows = _bumps(int(sheet.row.max()) + 1, sigma)
        self._columns = _bumps(int(sheet.column.max()) + 1, sigma)
        self._knots = (2, self._rows.shape[1], self._columns.shape[1])
        self.num_knots = int(np.prod(self._knots))

    def sample(self, knots: Float[np.ndarray, "draws knots"]) -> Float[np.ndarray, "draws voxels"]:
        """Return the field for standard normal knot values."""
        grid = knots.reshape(len(knots), *self._knots)
        spread = self._rows @ grid @ self._columns.T
        return spread[:, self._sheet.hemisphere, self._sheet.row, self._sheet.column]

    def matrix(self) -> Float[np.ndarray, "voxels knots"]:
        """Return the map from knots to voxels."""
        matrix = np.zeros((len(self._sheet.row), *self._knots), np.float32)
        for hemisphere in (0, 1):
            here = self._sheet.hemisphere == hemisphere
            rows = self._rows[self._sheet.row[here]]
            columns = self._columns[self._sheet.column[here]]
            matrix[here, hemisphere] = rows[:, :, None] * columns[:, None, :]
        return matrix.reshape(len(matrix), -1)


def _bumps(size: int, sigma: float) -> Float[np.ndarray, "places knots"]:
    spacing = 1.5 * sigma
    num_knots = int(np.ceil((size - 1) / spacing)) + 3
    centres = (np.arange(num_knots) - (num_knots - 1) / 2) * spacing + (size - 1) / 2
    bumps = np.exp(-((np.arange(size)[:, None] - centres) ** 2) / (2 * sigma**2))
    return (bumps / np.linalg.norm(bumps, axis=1, keepdims=True)).astype(np.float32)


def draw_tuning(
    sheet: Sheet, space: FeatureSpace, config: SimulationConfig, generator: np.random.Generator
) -> Float[np.ndarray, "voxels features"]:
    """Draw every voxel's weights on the features; the signal variance of each voxel is 1."""
    field = SmoothField(sheet, config.tuning_fwhm)
    num_semantic = space.num_semantic
    ranks = np.arange(1, num_semantic + 1, dtype=np.float32)
    semantic = field.sample(_normal(generator, num_semantic, field.num_knots)).T
    weights = np.zeros((len(sheet.roi), len(space.covariance)), np.float32)
    weights[:, :num_semantic] = semantic * ranks**-config.tuning_exponent
    channels = field.sample(_normal(generator, len(CHANNEL_GAINS), field.num_knots)).T
    seen = channels[:, :, None] * receptive_fields(sheet)[:, None, :]
    lowlevel = seen.reshape(len(seen), -1) @ space.lowlevel_loadings.T
    weights[sheet.early] = 0
    weights[sheet.early, num_semantic:] = lowlevel[sheet.early]
    variance = np.einsum("vf,fg,vg->v", weights, space.covariance, weights, optimize=True)
    return weights / np.sqrt(variance)[:, None]


def receptive_fields(sheet: Sheet) -> Float[np.ndarray, "voxels places"]:
    """Return each voxel's Gaussian receptive field over the grid of places; zero outside V1-hV4.

    Along a strip's columns eccentricity grows, across its rows the polar angle runs through the
    contralateral half field, and the width grows with eccentricity and from V1 to hV4.
    """
    eccentricity = 0.05 + 0.95 * sheet.column / max(int(sheet.column.max()), 1)
    fields = np.zeros((len(sheet.roi), GRID * GRID), np.float32)
    places = (np.arange(GRID) + 0.5) / GRID * 2 - 1
    for roi, growth in enumerate(FIELD_SIZES):
        here = sheet.roi == roi
        if not here.any():
            continue
        rows = sheet.row[here]
        depth = (rows - rows.min()) / max(int(np.ptp(rows)), 1)
        angle = (depth - 0.5) * np.pi * (1 if roi % 2 else -1)
        side = np.where(sheet.hemisphere[here] == 0, 1, -1)
        across = side * eccentricity[here] * np.cos(angle)
        down = eccentricity[here] * np.sin(angle)
        width = 0.08 + growth * eccentricity[here]
        distance = (places[None, :, None] - down[:, None, None]) ** 2 + (
            places[None, None, :] - across[:, None, None]
        ) ** 2
        shape = np.exp(-distance / (2 * width[:, None, None] ** 2))
        fields[here] = shape.reshape(len(rows), -1)
    return fields


def _normal(generator: np.random.Generator, *shape: int) -> np.ndarray:
    return generator.standard_normal(shape, dtype=np.float32)
