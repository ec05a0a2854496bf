"""Reconstructor: voxels (brains, voxels) -> candidate pictures and the choice among them.

For each brain the prior is sampled once per candidate, and the generator turns each sample into a
picture, starting from the low-level pipeline's blurry one. Every candidate is encoded again; the
chosen one has the tokens closest, by cosine, to the projector's output. The true picture plays no
part. Seeds are derived from the run's seed and the picture's key, so a picture does not depend on
the rest of the batch. Scotti et al. (2023), section 3.3.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import normalize

from mindeye_dist.data.target_encoder import TargetEncoder
from mindeye_dist.decoding.config import ReconstructionConfig
from mindeye_dist.decoding.predictor import Predictor, check_codec, check_pipeline
from mindeye_dist.errors import DataError, InputError
from mindeye_dist.frozen.codecs import LatentCodec, resize
from mindeye_dist.generators.protocol import Generator
from mindeye_dist.pictures import as_bytes
from mindeye_dist.randomness import seed_for

Voxels = Float[np.ndarray, "brains voxels"]
TokenSampler = Callable[[list[int], list[int]], Float[Tensor, "batch tokens dim"]]
"""From indices of brains, and the number of the candidate for each, to its tokens."""


class NotFiniteError(InputError):
    """Non-finite tokens or pictures; the message names the keys of their brains."""


@dataclass(frozen=True)
class LowLevelPipeline:
    """A low-level checkpoint and the codec whose latents it predicts."""

    predictor: Predictor
    codec: LatentCodec


@dataclass(frozen=True, kw_only=True)
class Reconstructions:
    """Candidate pictures of some brains, with the scores that choose among them.

    Attributes:
        keys: keys of the seen pictures.
        candidates: generated pictures of each brain.
        scores: cosine of each candidate's clip_tokens with the projector's output.
        lowlevel: blurry pictures that generation started from; None without a low-level pipeline.
    """

    keys: tuple[str, ...]
    candidates: UInt8[np.ndarray, "brains candidates side side 3"]
    scores: Float[np.ndarray, "brains candidates"]
    lowlevel: UInt8[np.ndarray, "brains side side 3"] | None

    @property
    def chosen(self) -> Int[np.ndarray, " brains"]:
        """Index of each brain's best candidate, the first one of equals."""
        return self.scores.argmax(axis=1)

    @property
    def pictures(self) -> UInt8[np.ndarray, "brains side side 3"]:
        """Each brain's best candidate."""
        return self.candidates[np.arange(len(self.keys)), self.chosen]


@dataclass(frozen=True)
class Reconstructor:
    """Generates pictures from voxels; `dataclasses.replace` gives one with other settings.

    Attributes:
        predictor: high-level checkpoint.
        generator: maps the checkpoint's tokens to pictures.
        encoder: frozen model of the clip_tokens that the checkpoint was trained on; it encodes the
            candidates.
        config: number of candidates, strength, seed and batch size.
        lowlevel: source of the blurry pictures to start from; None starts from noise alone.
        watch: iterates over the batches of a call, for instance to report progress.

    Raises:
        DataError: the parts were not trained on the same clip_tokens, subject or latents.
    """

    predictor: Predictor
    generator: Generator
    encoder: TargetEncoder
    config: ReconstructionConfig
    lowlevel: LowLevelPipeline | None = None
    watch: Callable[[range], Iterable[int]] = field(default=iter, kw_only=True)

    def __post_init__(self) -> None:
        check_tokens(self.predictor, self.generator, self.encoder)
        if self.lowlevel is not None:
            check_lowlevel(self.predictor, self.lowlevel)

    def __call__(self, voxels: Voxels, keys: Sequence[str]) -> Reconstructions:
        """Return the candidates of each brain, scored by their cosine with the projector's output.

        Args:
            voxels: one row per brain.
            keys: keys of the seen pictures; the seeds are derived from them.

        Raises:
            InputError: the voxels are of another number or not finite; there are not as many keys
                as brains; tokens or pictures are not finite.
        """
        _check_count("keys", len(keys), len(voxels))
        projected = torch.from_numpy(self.predictor.embed(voxels))
        lowlevel = self.lowlevel_pictures(voxels) if self.lowlevel else None

        if self.config.averaged_samples:
            mean = torch.from_numpy(self._mean_tokens(voxels, keys))
            return self._generate(lambda brains, _: mean[brains], projected, keys, lowlevel)

        # The backbone runs again for each candidate, at a hundredth of the cost of the prior.
        def sample(brains: list[int], numbers: list[int]) -> Float[Tensor, "batch tokens dim"]:
            seeds = self._seeds("prior", keys, brains, numbers)
            return torch.from_numpy(self.predictor.tokens(voxels[brains], seeds))

        return self._generate(sample, projected, keys, lowlevel)

    def _mean_tokens(
        self, voxels: Voxels, keys: Sequence[str]
    ) -> Float[np.ndarray, "brains tokens dim"]:
        """Return the mean of each brain's first `averaged_samples` samples of the prior."""
        numbers = list(range(self.config.averaged_samples))
        means = []
        for brain, own in enumerate(voxels):
            repeated = np.repeat(own[None], len(numbers), axis=0)
            seeds = self._seeds("prior", keys, [brain] * len(numbers), numbers)
            means.append(self.predictor.tokens(repeated, seeds).mean(axis=0))
        return np.stack(means)

    def from_tokens(
        self,
        tokens: Float[np.ndarray, "brains tokens dim"],
        keys: Sequence[str],
        lowlevel: Float[Tensor, "pictures 3 _ _"] | None = None,
    ) -> Reconstructions:
        """Return candidates generated from the given tokens and scored by their cosine with them.

        With the true clip_tokens this is the upper bound of the generator.

        Args:
            tokens: one set per brain, in the scale of the targets.
            keys: keys of the seen pictures; the seeds are derived from them.
            lowlevel: pictures to start from, values in [0, 1].

        Raises:
            InputError: the tokens do not have the generator's shape or are not finite; there are
                not as many keys or low-level pictures as tokens.
        """
        expected = self.generator.token_shape
        if len(tokens) == 0 or tokens.shape[1:] != expected:
            raise InputError(
                f"tokens: got {tokens.shape}, expected (brains, {expected[0]}, {expected[1]}) of "
                "at least one brain"
            )
        _check_count("keys", len(keys), len(tokens))
        rows = torch.from_numpy(tokens.astype(np.float32))
        _check_finite(rows, "tokens", keys)
        if lowlevel is not None:
            _check_count("low-level pictures", len(lowlevel), len(tokens))
            _check_finite(lowlevel, "low-level picture", keys)
            lowlevel = resize(lowlevel, self.generator.side).clamp(0, 1)
        unit = normalize(rows.flatten(1), dim=-1)
        return self._generate(lambda brains, _: rows[brains], unit, keys, lowlevel)

    @torch.no_grad()
    def lowlevel_pictures(self, voxels: Voxels) -> Float[Tensor, "brains 3 side side"]:
        """Return the low-level pipeline's blurry pictures in [0, 1], at the generator's size.

        Raises:
            InputError: there is no low-level pipeline; the voxels are of another number or not
                finite.
        """
        if self.lowlevel is None:
            raise InputError("low-level pictures: got no low-level pipeline to predict them")
        latents = torch.from_numpy(self.lowlevel.predictor.latents(voxels))
        parts = [
            resize(self.lowlevel.codec.decode(part), self.generator.side).clamp(0, 1).cpu()
            for part in latents.split(self.config.batch_size)
        ]
        return torch.cat(parts)

    @torch.no_grad()
    def _generate(
        self,
        sample: TokenSampler,
        reference: Float[Tensor, "brains features"],
        keys: Sequence[str],
        lowlevel: Float[Tensor, "brains 3 side side"] | None,
    ) -> Reconstructions:
        count, side = self.config.candidates, self.generator.side
        candidates = np.empty((len(keys), count, side, side, 3), np.uint8)
        scores = np.empty((len(keys), count), np.float32)
        pairs = list(product(range(len(keys)), range(count)))
        for start in self.watch(range(0, len(pairs), self.config.batch_size)):
            some = pairs[start : start + self.config.batch_size]
            brains, numbers = [brain for brain, _ in some], [number for _, number in some]
            tokens, batch_keys = sample(brains, numbers), [keys[brain] for brain in brains]
            _check_finite(tokens, "tokens", batch_keys)
            seed_keys = [""] * len(keys) if self.config.shared_noise else keys
            seeds = self._seeds("generator", seed_keys, brains, numbers)
            init = None if lowlevel is None else lowlevel[brains]
            generated = self.generator(tokens, seeds, init, self.config.strength)
            _check_finite(generated, f"picture by {self.generator.name}", batch_keys)
            pictures = as_bytes(generated.float().cpu().numpy())
            candidates[brains, numbers] = pictures
            scores[brains, numbers] = self._similarities(pictures, reference[brains], batch_keys)
        return Reconstructions(
            keys=tuple(keys),
            candidates=candidates,
            scores=scores,
            lowlevel=None if lowlevel is None else as_bytes(lowlevel.float().cpu().numpy()),
        )

    def _seeds(
        self, purpose: str, keys: Sequence[str], brains: list[int], numbers: list[int]
    ) -> list[int]:
        return [
            seed_for(self.config.seed, purpose, keys[brain], number)
            for brain, number in zip(brains, numbers, strict=True)
        ]

    def _similarities(
        self,
        pictures: UInt8[np.ndarray, "batch side side 3"],
        reference: Float[Tensor, "batch features"],
        keys: Sequence[str],
    ) -> Float[np.ndarray, " batch"]:
        # The pictures are scored as they are stored: in eight bits.
        images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
        tokens = self.encoder.encode(images).float().cpu()
        _check_finite(tokens, f"clip_tokens of a candidate by {self.encoder.name}", keys)
        return (normalize(tokens.flatten(1), dim=-1) * reference).sum(dim=-1).numpy()


def check_tokens(predictor: Predictor, generator: Generator, encoder: TargetEncoder) -> None:
    """Check that checkpoint, generator and encoder use the same clip_tokens.

    Raises:
        DataError: their shapes or digests differ, or the checkpoint is low-level.
    """
    check_pipeline(predictor, "highlevel")
    trained = predictor.shapes.targets["clip_tokens"]
    if trained.shape != generator.token_shape:
        raise DataError(
            f"{generator.name}: takes tokens {generator.token_shape}, {predictor.path} gives "
            f"{trained.shape}"
        )
    if generator.encoder_digest not in ("", trained.digest):
        raise DataError(
            f"{generator.name}: was trained by tokens of encoder {generator.encoder_digest[:12]}, "
            f"{predictor.path} by those of {trained}"
        )
    if encoder.digest != trained.digest:
        raise DataError(
            f"{encoder.name} {encoder.digest[:12]} is to encode candidates, {predictor.path} was "
            f"trained by tokens of {trained}"
        )


def check_lowlevel(predictor: Predictor, lowlevel: LowLevelPipeline) -> None:
    """Check that a low-level pipeline has the checkpoint's subject and voxels, and its own codec.

    Raises:
        DataError: the subjects, the numbers of voxels or the codecs differ.
    """
    own = lowlevel.predictor
    check_pipeline(own, "lowlevel")
    check_codec(own, lowlevel.codec)
    high, low = (f"{p.subject} with {p.num_voxels} voxels" for p in (predictor, own))
    if high != low:
        raise DataError(f"{own.path}: is of {low}, {predictor.path} of {high}")


def _check_count(name: str, got: int, brains: int) -> None:
    if got != brains:
        raise InputError(f"{name}: got {got}, expected one for each of {brains} brains")


def _check_finite(values: Tensor, label: str, keys: Sequence[str]) -> None:
    bad = (~torch.isfinite(values)).flatten(1).any(dim=1).cpu().tolist()
    if any(bad):
        bad_keys = sorted({key for key, is_bad in zip(keys, bad, strict=True) if is_bad})
        raise NotFiniteError(f"{label}: values that are not finite for {', '.join(bad_keys)}")
