"""Training of the project's own autoencoder and generator: pictures in memory -> weights.

One process and one device: the networks are small. The order of pictures and the noise of a step
are functions of the seed and the step, so on the same kind of device an interrupted run goes on as
if nothing had happened.
"""

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from mindeye_dist.errors import InputError
from mindeye_dist.generators.config import PictureTraining
from mindeye_dist.randomness import numpy_generator, torch_generator
from mindeye_dist.strict import check

Network = TypeVar("Network", bound=nn.Module)
STATE = "state.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's moments of each parameter."""


Loss = Callable[[Network, Int[np.ndarray, " batch"], torch.Generator], Float[Tensor, ""]]
"""From a network, numbers of pictures, and what draws noise."""


class PictureTrainer(Generic[Network]):
    """Weights, their running average and the optimizer's state, on one device.

    Args:
        network: on the device to train on, with random weights.
        loss: of the network on some pictures.
        count: of the pictures.
        settings: of the training.
        folder: where the state is kept.
        name: of what is trained, for messages.
        about: what network, pictures and loss are, in words; a state goes on only where they are
            equal.

    Raises:
        InputError: there are fewer pictures than a batch.
    """

    def __init__(  # noqa: PLR0913 - these are the parts, and it builds none of them
        self,
        network: Network,
        loss: Loss[Network],
        count: int,
        settings: PictureTraining,
        folder: Path,
        *,
        name: str,
        about: str,
    ) -> None:
        self.network, self.loss, self.count, self.settings = network, loss, count, settings
        self.name = name
        self.device = next(network.parameters()).device
        self._identity = f"{settings} of {count} pictures on {self.device.type}: {about}"
        size = settings.batch_size
        check(size <= count, f"{name}: batch_size", size, f"at most the {count} pictures")
        self.average = deepcopy(network)
        self.optimizer = torch.optim.AdamW(
            network.parameters(), settings.max_lr, weight_decay=settings.weight_decay
        )
        self.steps_per_epoch = count // settings.batch_size
        self.total_steps = settings.epochs * self.steps_per_epoch
        self.step = 0
        self._folder = folder

    def run(self) -> Iterator[dict[str, float]]:
        """Train to the end, and yield step and loss after every step."""
        while self.step < self.total_steps:
            loss = self._train_step()
            if not math.isfinite(loss):
                raise InputError(
                    f"{self.name}: step {self.step}: the loss is {loss}, expected a finite one"
                )
            self.step += 1
            if self.step % self.settings.save_every_steps == 0 or self.step == self.total_steps:
                self.save()
            yield {"step": self.step, "loss": loss}

    def _train_step(self) -> float:
        settings, network = self.settings, self.network
        epoch, place = divmod(self.step, self.steps_per_epoch)
        order = numpy_generator(settings.seed, "order", epoch).permutation(self.count)
        rows = np.sort(order[place * settings.batch_size :][: settings.batch_size])
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        noise = torch_generator(self.device, settings.seed, "noise", self.step)
        loss = self.loss(network, rows, noise)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        self.optimizer.step()
        # A young average follows quickly, or it would remember the random start.
        decay = min(settings.average_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, weight in zip(self.average.parameters(), network.parameters(), strict=True):
                mean.lerp_(weight, 1 - decay)
        return float(loss.detach())

    def _learning_rate(self) -> float:
        """Return a linear warm-up, then half a cosine down to 0."""
        warm = (self.step + 1) / max(self.settings.warmup_steps, 1)
        done = self.step / max(self.total_steps, 1)
        return self.settings.max_lr * min(1.0, warm) * (1 + math.cos(math.pi * done)) / 2

    def save(self) -> None:
        """Write the state, in the place of the last one."""
        names = [name for name, _ in self.network.named_parameters()]
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for name, parameter in zip(names, self.network.parameters(), strict=True):
            state = self.optimizer.state[parameter]
            tensors |= {f"{k}.{name}": state[k] for k in MOMENTS}
        partial = self._folder / f"{STATE}.partial"
        data = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        partial.write_bytes(save(data, {"step": str(self.step), "of": self._identity}))
        partial.replace(self._folder / STATE)

    def load(self) -> None:
        """Go on from the state that was saved, if there is one.

        Raises:
            InputError: it is of another training.
        """
        path = self._folder / STATE
        if not path.exists():
            return
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            if about["of"] != self._identity:
                raise InputError(
                    f"{path}: is of another training ({about['of']}), expected {self._identity}; "
                    "another --run-dir starts anew"
                )
            self.network.load_state_dict(_part(tensors, "network."))
            self.average.load_state_dict(_part(tensors, "average."))
            self.step = int(about["step"])
            for name, parameter in self.network.named_parameters():
                self.optimizer.state[parameter] = {
                    "step": torch.tensor(float(self.step)),
                    **{k: tensors[f"{k}.{name}"].to(self.device) for k in MOMENTS},
                }
        except (SafetensorError, RuntimeError, KeyError) as error:
            raise InputError(f"{path}: is no state of this training: {error}") from error


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
