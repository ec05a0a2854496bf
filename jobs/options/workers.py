"""Number and kind of workers of a parallel map; no flags, but made from them."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Workers:
    """How many workers share the items, and whether each holds a GPU."""

    count: int
    gpu: bool = False
    without_ray: bool = False
