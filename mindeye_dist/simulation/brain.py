"""The simulated brain: from features of pictures to voxels, with the truth kept.

Features of pictures (pictures, features) come in; z-scored single-trial responses (pictures,
repeats, voxels) go out. Response = weights @ features + picture-driven signal outside the features
+ noise, scaled to a per-voxel ncsnr as in NSD (Allen et al., 2022): the signal variance is
ncsnr^2 / (1 + ncsnr^2), the noise variance 1 / (1 + ncsnr^2). All of it is linear, and Gaussian
given the features, so the best possible decoder is known in closed form (`OptimalDecoder`).
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float16, Int
from safetensors import safe_open
from safetensors.numpy import save_file

from mindeye_dist.errors import InputError
from mindeye_dist.randomness import numpy_generator
from mindeye_dist.simulation.config import SimulationConfig
from mindeye_dist.simulation.tuning import (
    ROIS,
    FeatureSpace,
    Sheet,
    SmoothField,
    draw_tuning,
    make_sheet,
)
from mindeye_dist.strict import from_dict


@dataclass(frozen=True, kw_only=True)
class Responses:
    """Single-trial responses to some pictures."""

    voxels: Float16[np.ndarray, "pictures repeats voxels"]
    """z-scored per voxel within each session."""
    trials: Int[np.ndarray, "pictures repeats"]
    """When each repeat was shown: the number of its trial, over all sessions."""


@dataclass(frozen=True, kw_only=True)
class SimulatedSubject:
    """The truth about one subject; all variances are those of z-scored single trials."""

    config: SimulationConfig
    space: FeatureSpace
    sheet: Sheet
    ncsnr: Float[np.ndarray, " voxels"]
    weights: Float[np.ndarray, "voxels features"]
    """Explained signal = weights @ features."""
    unexplained: Float[np.ndarray, "voxels hidden"]
    """Unexplained signal = unexplained @ standard normal values, drawn once for each picture."""
    lowrank: Float[np.ndarray, "voxels rank"]
    """Whole-brain noise = lowrank @ standard normal values, drawn for each trial."""

    @property
    def noise_variance(self) -> Float[np.ndarray, " voxels"]:
        """Variance of each voxel's response over repeats of a picture."""
        return (1 / (1 + self.ncsnr**2)).astype(np.float32)

    @property
    def independent_variance(self) -> Float[np.ndarray, " voxels"]:
        """Variance of the noise that each voxel has for itself."""
        config = self.config
        return self.noise_variance * (1 - config.smooth_fraction - config.lowrank_fraction)

    @property
    def smooth_deviation(self) -> Float[np.ndarray, " voxels"]:
        """Standard deviation of the noise that neighbouring voxels have in common."""
        return np.sqrt(self.noise_variance * self.config.smooth_fraction)

    @property
    def rois(self) -> dict[str, Int[np.ndarray, " chosen"]]:
        """Indices of each ROI's voxels."""
        return {name: np.flatnonzero(self.sheet.roi == index) for index, name in enumerate(ROIS)}

    def smooth_loadings(self) -> Float[np.ndarray, "voxels knots"]:
        """Return the loadings of the spatially smooth noise on its standard normal knots."""
        field = SmoothField(self.sheet, self.config.smooth_fwhm)
        return field.matrix() * self.smooth_deviation[:, None]

    def clean(
        self, features: Float[np.ndarray, "pictures features"]
    ) -> Float[np.ndarray, "pictures voxels"]:
        """Return the explained part of the signal."""
        return features @ self.weights.T

    def respond(
        self, picture_ids: Sequence[int], features: Float[np.ndarray, "pictures features"]
    ) -> Responses:
        """Show every picture `num_repeats` times, in sessions of about `trials_per_session`.

        Before z-scoring, a trial's response depends on seed, subject, picture and repeat alone, but
        for the session's gain; z-scoring then ties it to the session's other trials, as in NSD.
        Offsets of sessions are not drawn, since z-scoring takes them away exactly.

        Raises:
            InputError: features of another shape or not finite, or a picture that comes twice.
        """
        self._check(picture_ids, features)
        config = self.config
        shape = (len(picture_ids), config.num_repeats)
        num_trials = shape[0] * shape[1]
        order = numpy_generator(config.seed, config.subject, "order").permutation(num_trials)
        trials = np.sort(np.argsort(order).reshape(shape), axis=1)
        shown = np.empty((num_trials, 2), int)
        shown[trials] = np.moveaxis(np.indices(shape), 0, -1)
        voxels = np.empty((*shape, len(self.ncsnr)), np.float16)
        field = SmoothField(self.sheet, config.smooth_fwhm)
        num_sessions = -(-num_trials // config.trials_per_session)
        for session, part in enumerate(np.array_split(shown, num_sessions)):
            pictures, repeats = part.T
            ids = [int(picture_ids[picture]) for picture in pictures]
            response = self._signal(ids, features[pictures])
            draw = numpy_generator(config.seed, config.subject, "gain", session)
            response *= 1 + config.session_gain_sd * draw.standard_normal()
            self._add_noise(response, field, ids, repeats)
            response -= response.mean(axis=0)
            response /= response.std(axis=0)
            voxels[pictures, repeats] = response
        return Responses(voxels=voxels, trials=trials)

    def _signal(self, ids: list[int], features: np.ndarray) -> np.ndarray:
        hidden = np.stack(
            [
                numpy_generator(
                    self.config.seed, self.config.subject, "unexplained", picture
                ).standard_normal(self.unexplained.shape[1], dtype=np.float32)
                for picture in ids
            ]
        )
        return self.clean(features) + hidden @ self.unexplained.T

    def _add_noise(
        self, response: np.ndarray, field: SmoothField, ids: list[int], repeats: np.ndarray
    ) -> None:
        independent = np.sqrt(self.independent_variance)
        knots = np.empty((len(ids), field.num_knots), np.float32)
        common = np.empty((len(ids), self.lowrank.shape[1]), np.float32)
        for trial, (picture, repeat) in enumerate(zip(ids, repeats, strict=True)):
            draw = numpy_generator(
                self.config.seed, self.config.subject, "noise", picture, int(repeat)
            )
            response[trial] += independent * draw.standard_normal(len(self.ncsnr), np.float32)
            draw.standard_normal(dtype=np.float32, out=knots[trial])
            draw.standard_normal(dtype=np.float32, out=common[trial])
        response += field.sample(knots) * self.smooth_deviation
        response += common @ self.lowrank.T

    def _check(self, picture_ids: Sequence[int], features: np.ndarray) -> None:
        expected = (len(picture_ids), len(self.space.covariance))
        if features.shape != expected:
            raise InputError(
                f"{self.config.subject}: features have shape {features.shape}, expected {expected}"
            )
        if not np.isfinite(features).all():
            raise InputError(f"{self.config.subject}: features hold values that are not finite")
        if len(set(picture_ids)) != len(picture_ids):
            raise InputError(f"{self.config.subject}: a picture id comes more than once")
        if len(picture_ids) * self.config.num_repeats < 2:
            raise InputError(f"{self.config.subject}: got 1 trial, z-scoring needs at least 2")

    def save(self, path: Path) -> None:
        """Write the truth as one safetensors file."""
        arrays = {
            name: getattr(self, name) for name in ("ncsnr", "weights", "unexplained", "lowrank")
        }
        for part in ("space", "sheet"):
            arrays |= {f"{part}.{name}": array for name, array in vars(getattr(self, part)).items()}
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        config = json.dumps(dataclasses.asdict(self.config))
        save_file(contiguous, path, metadata={"config": config})

    @classmethod
    def load(cls, path: Path) -> "SimulatedSubject":
        """Load a subject that `save` wrote."""
        with safe_open(path, framework="numpy") as file:
            config = from_dict(
                SimulationConfig, json.loads(file.metadata()["config"]), partial=True
            )
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        space, sheet = (
            {
                name.removeprefix(prefix): array
                for name, array in arrays.items()
                if name.startswith(prefix)
            }
            for prefix in ("space.", "sheet.")
        )
        return cls(
            config=config,
            space=FeatureSpace(**space),
            sheet=Sheet(**sheet),
            **{name: array for name, array in arrays.items() if "." not in name},
        )


def make_subject(config: SimulationConfig, space: FeatureSpace) -> SimulatedSubject:
    """Draw a subject's sheet, ncsnr, tuning and noise from the config's seed and subject."""
    sheet = make_sheet(config.num_voxels, config.early_fraction)

    def draw(purpose: str) -> np.random.Generator:
        return numpy_generator(config.seed, config.subject, purpose)

    spread = draw("ncsnr").standard_normal(config.num_voxels)
    ncsnr = np.exp(config.ncsnr_log_mean + config.ncsnr_log_sd * spread).astype(np.float32)
    signal = ncsnr / np.sqrt(1 + ncsnr**2)
    noise = 1 / np.sqrt(1 + ncsnr**2)
    tuning = draw_tuning(sheet, space, config, draw("tuning"))
    outside, shared = config.unexplained_fraction, config.shared_fraction
    # What the features miss is tuned like what they catch: in part along the same weights, in part
    # along weights of its own.
    other = draw_tuning(sheet, space, config, draw("unexplained"))
    spread = np.linalg.cholesky(space.covariance.astype(float)).astype(np.float32)
    hidden = np.concatenate(
        [tuning @ spread * shared**0.5, other @ spread * (1 - shared) ** 0.5], axis=1
    )
    loadings = draw("lowrank").standard_normal((config.num_voxels, config.lowrank_rank))
    loadings *= config.lowrank_fraction**0.5 / np.linalg.norm(loadings, axis=1, keepdims=True)
    return SimulatedSubject(
        config=config,
        space=space,
        sheet=sheet,
        ncsnr=ncsnr,
        weights=tuning * (signal * (1 - outside) ** 0.5)[:, None],
        unexplained=hidden * (signal * outside**0.5)[:, None],
        lowrank=(loadings * noise[:, None]).astype(np.float32),
    )


class OptimalDecoder:
    """The best decoder there can be, given the truth and the average of some repeats.

    Voxels v are Gaussian given the features f, with mean W f and covariance N = unexplained signal
    + noise / repeats; the features have covariance C. The posterior of f is Gaussian with precision
    C^-1 + J, J = W' N^-1 W, and mean (C^-1 + J)^-1 W' N^-1 v (Bishop, 2006, section 2.3.3). N is
    diagonal plus low rank, so the Woodbury identity spares the voxels x voxels matrix.
    """

    def __init__(self, subject: SimulatedSubject, num_repeats: int) -> None:
        scale = num_repeats**-0.5
        diagonal = subject.independent_variance / num_repeats
        loadings = np.concatenate(
            [subject.unexplained, subject.smooth_loadings() * scale, subject.lowrank * scale],
            axis=1,
        )
        weighted = loadings / diagonal[:, None]
        inner = (loadings.T @ weighted).astype(float)
        inner[np.diag_indices_from(inner)] += 1
        explained = (weighted.T @ subject.weights).astype(float)
        correction = weighted @ np.linalg.solve(inner, explained).astype(np.float32)
        self._readout = subject.weights / diagonal[:, None] - correction
        self._information = (subject.weights.T @ self._readout).astype(float)
        self._prior = np.linalg.inv(subject.space.covariance.astype(float))
        self._subject = subject

    def features(
        self, voxels: Float[np.ndarray, "brains voxels"]
    ) -> Float[np.ndarray, "brains features"]:
        """Return the posterior mean of the features of the picture that each brain saw."""
        evidence = self._evidence(voxels)
        return np.linalg.solve(self._prior + self._information, evidence.T).T.astype(np.float32)

    def clip_tokens(
        self, voxels: Float[np.ndarray, "brains voxels"]
    ) -> Float[np.ndarray, "brains token_values"]:
        """Return the linear prediction of flattened clip_tokens with the least squared error."""
        space = self._subject.space
        slopes = (self._prior @ space.token_covariance).astype(np.float32)
        return space.token_mean + self.features(voxels) @ slopes

    def similarity(
        self,
        voxels: Float[np.ndarray, "brains voxels"],
        features: Float[np.ndarray, "images features"],
    ) -> Float[np.ndarray, "brains images"]:
        """Return log p(features of the image | brain) - log p(features of the image).

        This pointwise mutual information ranks images for a brain optimally, whatever the features'
        distribution, and brains for an image as far as the features are Gaussian. Session gains and
        z-scoring, a few per cent, are left out.
        """
        evidence = self._evidence(voxels)
        precision = self._prior + self._information
        mean = np.linalg.solve(precision, evidence.T).T
        images = features.astype(float)
        gain = np.linalg.slogdet(precision)[1] - np.linalg.slogdet(self._prior)[1]
        of_brain = np.einsum("bf,bf->b", evidence, mean)
        of_image = np.einsum("if,fg,ig->i", images, self._information, images, optimize=True)
        return evidence @ images.T + (gain - of_brain[:, None] - of_image) / 2

    def _evidence(self, voxels: np.ndarray) -> np.ndarray:
        num_voxels = len(self._readout)
        if voxels.ndim != 2 or voxels.shape[1] != num_voxels:
            raise InputError(
                f"{self._subject.config.subject}: voxels have shape {voxels.shape}, "
                f"expected (brains, {num_voxels})"
            )
        return (voxels.astype(np.float32) @ self._readout).astype(float)
