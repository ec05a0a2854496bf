"""Reconstruct: voxels -> candidates -> the picture that is closest to the projector's output.

Each brain gets samples of the prior, each sample a picture by the generator, drawn over the
low-level pipeline's blurry one; every picture is encoded again, and the one whose tokens are
closest to the projector's is chosen (Scotti et al. 2023, section 3.3). The true picture has no say.
Seeds come from the run's and the picture's key, so that nothing depends on what else is drawn.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
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
from mindeye_dist.randomness import seed_for

Voxels = Float[np.ndarray, "brains voxels"]
Sample = Callable[[list[int], list[int]], Float[Tensor, "batch tokens dim"]]
"""From numbers of brains and of their candidates to tokens."""


class NotFiniteError(InputError):
    """Tokens or pictures that are not finite; names the brains that they are of."""


@dataclass(frozen=True)
class LowLevelPipeline:
    """A low-level checkpoint and the codec whose latents it predicts."""

    predictor: Predictor
    codec: LatentCodec


@dataclass(frozen=True, kw_only=True)
class Reconstructions:
    """What was drawn for some brains.

    Attributes:
        keys: of the pictures that were seen.
        candidates: pictures that were drawn for each brain.
        scores: cosine of each candidate's clip_tokens with the projector's.
        lowlevel: the blurry pictures that were drawn over, where there were any.
    """

    keys: tuple[str, ...]
    candidates: UInt8[np.ndarray, "brains candidates side side 3"]
    scores: Float[np.ndarray, "brains candidates"]
    lowlevel: UInt8[np.ndarray, "brains side side 3"] | None

    @property
    def chosen(self) -> Int[np.ndarray, " brains"]:
        """Return the number of each brain's best candidate, the first of equals."""
        return self.scores.argmax(axis=1)

    @property
    def pictures(self) -> UInt8[np.ndarray, "brains side side 3"]:
        """Return each brain's best candidate."""
        return self.candidates[np.arange(len(self.keys)), self.chosen]


class Reconstructor:
    """Draws pictures from voxels.

    Args:
        predictor: a high-level checkpoint.
        generator: draws from its tokens.
        encoder: by whose clip_tokens the checkpoint was trained; it encodes candidates again.
        config: how many candidates, how strong, which seed, how many at once.
        lowlevel: gives blurry pictures to draw over; noise alone is drawn from without.
        watch: passes the batches of a drawing on, and may say how far it is.

    Raises:
        DataError: these do not belong together.
    """

    def __init__(
        self,
        predictor: Predictor,
        generator: Generator,
        encoder: TargetEncoder,
        config: ReconstructionConfig,
        lowlevel: LowLevelPipeline | None = None,
        *,
        watch: Callable[[range], Iterable[int]] = iter,
    ) -> None:
        check_tokens(predictor, generator, encoder)
        if lowlevel is not None:
            check_lowlevel(predictor, lowlevel)
        self.predictor, self.generator, self.encoder = predictor, generator, encoder
        self.config, self.lowlevel, self.watch = config, lowlevel, watch

    def over(self, lowlevel: LowLevelPipeline) -> "Reconstructor":
        """Return what draws the same over the pictures of a low-level pipeline.

        Raises:
            DataError: it is of another brain, or its codec is another one.
        """
        parts = (self.predictor, self.generator, self.encoder, self.config)
        return Reconstructor(*parts, lowlevel, watch=self.watch)

    def __call__(self, voxels: Voxels, keys: Sequence[str]) -> Reconstructions:
        """Return the candidates of each brain, and how close each is to the projector's output.

        Args:
            voxels: of each brain.
            keys: of the pictures that they saw, from which their seeds come.

        Raises:
            InputError: voxels of another number, or not finite; keys of another number than
                brains; tokens or pictures that are not finite.
        """
        _check_number("keys", len(keys), len(voxels))
        wanted = self.predictor.embed(voxels)
        lowlevel = self.blurry(voxels) if self.lowlevel else None

        if self.config.averaged_samples:
            mean = torch.from_numpy(self._mean_tokens(voxels, keys))
            return self._draw(
                lambda brains, _: mean[brains], torch.from_numpy(wanted), keys, lowlevel
            )

        # The backbone runs again for each candidate: a hundredth of the prior's many steps.
        def sample(brains: list[int], numbers: list[int]) -> Float[Tensor, "batch tokens dim"]:
            seeds = self._seeds("prior", keys, brains, numbers)
            return torch.from_numpy(self.predictor.tokens(voxels[brains], seeds))

        return self._draw(sample, torch.from_numpy(wanted), keys, lowlevel)

    def _mean_tokens(
        self, voxels: Voxels, keys: Sequence[str]
    ) -> Float[np.ndarray, "brains tokens dim"]:
        """Return the mean of each brain's samples of the prior, those of its first candidates."""
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
        """Return candidates drawn from given tokens, chosen by how close they come to them.

        With the true tokens that is the most that the generator could give.

        Args:
            tokens: in the scale of the targets.
            keys: of the pictures, from which the seeds come.
            lowlevel: pictures in [0, 1] to draw over.

        Raises:
            InputError: other tokens than the generator's, or not finite; keys or pictures of
                another number.
        """
        expected = self.generator.token_shape
        if len(tokens) == 0 or tokens.shape[1:] != expected:
            raise InputError(
                f"tokens: got {tokens.shape}, expected (brains, {expected[0]}, {expected[1]}) of "
                "at least one brain"
            )
        _check_number("keys", len(keys), len(tokens))
        given = torch.from_numpy(tokens.astype(np.float32))
        _check_finite(given, "tokens", keys)
        if lowlevel is not None:
            _check_number("low-level pictures", len(lowlevel), len(tokens))
            _check_finite(lowlevel, "low-level picture", keys)
            lowlevel = resize(lowlevel, self.generator.side).clamp(0, 1)
        wanted = normalize(given.flatten(1), dim=-1)
        return self._draw(lambda brains, _: given[brains], wanted, keys, lowlevel)

    @torch.no_grad()
    def blurry(self, voxels: Voxels) -> Float[Tensor, "brains 3 side side"]:
        """Return the low-level pipeline's pictures in [0, 1], as large as the generator's.

        Raises:
            InputError: there is no low-level pipeline; voxels of another number, or not finite.
        """
        if self.lowlevel is None:
            raise InputError("blurry pictures: got no low-level pipeline to make them")
        latents = torch.from_numpy(self.lowlevel.predictor.latents(voxels))
        parts = [
            resize(self.lowlevel.codec.decode(part), self.generator.side).clamp(0, 1).cpu()
            for part in latents.split(self.config.batch_size)
        ]
        return torch.cat(parts)

    @torch.no_grad()
    def _draw(
        self,
        sample: Sample,
        wanted: Float[Tensor, "brains features"],
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
            tokens, names = sample(brains, numbers), [keys[brain] for brain in brains]
            _check_finite(tokens, "tokens", names)
            places = [""] * len(keys) if self.config.shared_noise else keys
            seeds = self._seeds("generator", places, brains, numbers)
            init = None if lowlevel is None else lowlevel[brains]
            drawn = self.generator(tokens, seeds, init, self.config.strength)
            _check_finite(drawn, f"picture by {self.generator.name}", names)
            pictures = _eight_bits(drawn)
            candidates[brains, numbers] = pictures
            scores[brains, numbers] = self._closeness(pictures, wanted[brains], names)
        return Reconstructions(
            keys=tuple(keys),
            candidates=candidates,
            scores=scores,
            lowlevel=None if lowlevel is None else _eight_bits(lowlevel),
        )

    def _seeds(
        self, purpose: str, keys: Sequence[str], brains: list[int], numbers: list[int]
    ) -> list[int]:
        return [
            seed_for(self.config.seed, purpose, keys[brain], number)
            for brain, number in zip(brains, numbers, strict=True)
        ]

    def _closeness(
        self,
        pictures: UInt8[np.ndarray, "batch side side 3"],
        wanted: Float[Tensor, "batch features"],
        names: Sequence[str],
    ) -> Float[np.ndarray, " batch"]:
        # What is judged is what is kept: the pictures in eight bits.
        images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
        tokens = self.encoder.encode(images).float().cpu()
        _check_finite(tokens, f"clip_tokens of a candidate by {self.encoder.name}", names)
        return (normalize(tokens.flatten(1), dim=-1) * wanted).sum(dim=-1).numpy()


def check_tokens(predictor: Predictor, generator: Generator, encoder: TargetEncoder) -> None:
    """See that checkpoint, generator and encoder speak of the same clip_tokens.

    Raises:
        DataError: they do not, or the checkpoint is of the low-level pipeline.
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
    """See that a low-level pipeline is of the same brain as a checkpoint, and has its codec.

    Raises:
        DataError: it is of another subject, of other voxels, or the codec is another one.
    """
    own = lowlevel.predictor
    check_pipeline(own, "lowlevel")
    check_codec(own, lowlevel.codec)
    ours, theirs = (
        f"{p.config.data.subject} with {p.shapes.num_voxels} voxels" for p in (predictor, own)
    )
    if ours != theirs:
        raise DataError(f"{own.path}: is of {theirs}, {predictor.path} of {ours}")


def _eight_bits(
    pictures: Float[Tensor, "batch 3 side side"],
) -> UInt8[np.ndarray, "batch side side 3"]:
    scaled = (pictures.float().clamp(0, 1) * 255).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).cpu().numpy()


def _check_number(what: str, got: int, brains: int) -> None:
    if got != brains:
        raise InputError(f"{what}: got {got}, expected one for each of {brains} brains")


def _check_finite(values: Tensor, what: str, names: Sequence[str]) -> None:
    bad = (~torch.isfinite(values)).flatten(1).any(dim=1).cpu().tolist()
    if any(bad):
        which = sorted({name for name, is_bad in zip(names, bad, strict=True) if is_bad})
        raise NotFiniteError(f"{what}: values that are not finite for {', '.join(which)}")
