"""Not a test: what forked processes begin with, since a CPU needs many seconds to import it."""

import os

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import torch  # noqa: E402

import jobs.work.train_generator  # noqa: E402, F401
import jobs.worker  # noqa: E402, F401
from mindeye_dist.training.backends.deepspeed_backend import _import_deepspeed  # noqa: E402

_import_deepspeed()
from deepspeed.runtime.zero.muon import muon_optimizer  # noqa: E402, F401  # which imports inductor

torch.set_num_threads(1)
