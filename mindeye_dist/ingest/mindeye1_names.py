"""The published checkpoints' key names, and ours.

Only this file knows how Scotti et al.'s released state dicts (commit 6b30ea5) name their tensors.
There are three kinds: `257x768` (backbone, projector, prior over all tokens), `1x768` (the same
for CLIP's image embedding alone, with DALL-E 2's prior), and `autoencoder` (low level).

A row of a table pairs a published name with ours; `#` stands for a number, and a name that ends in
a point for everything below it. The first row that fits counts.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Literal

from mindeye_dist.errors import InputError

Kind = Literal["257x768", "1x768", "autoencoder"]
Rows = tuple[tuple[str, str], ...]

_LAYER, _OURS = "net.causal_transformer.layers.#.", "prior.layers.#."
_BACKBONE: Rows = (
    ("voxel2clip.lin0.#.", "backbone.input.#."),
    ("voxel2clip.mlp.#.#.", "backbone.blocks.#.#."),
    ("voxel2clip.lin1.", "backbone.output."),
    ("voxel2clip.projector.#.", "projector.layers.#."),
)
_TRANSFORMER: Rows = (
    ("net.causal_transformer.rel_pos_bias.relative_attention_bias.", "prior.relative_bias."),
    (f"{_LAYER}0.null_kv", f"{_OURS}attention.null_kv"),
    (f"{_LAYER}0.norm.g", f"{_OURS}attention.norm.gain"),
    (f"{_LAYER}0.to_q.", f"{_OURS}attention.query."),
    (f"{_LAYER}0.to_kv.", f"{_OURS}attention.key_value."),
    (f"{_LAYER}0.to_out.0.", f"{_OURS}attention.output."),
    (f"{_LAYER}0.to_out.1.g", f"{_OURS}attention.output_norm.gain"),
    (f"{_LAYER}1.0.g", f"{_OURS}feed_forward.0.gain"),
    (f"{_LAYER}1.1.", f"{_OURS}feed_forward.1."),
    ("net.causal_transformer.norm.g", "prior.norm.gain"),
    ("net.causal_transformer.project_out.", "prior.output."),
)
_TOKEN_PRIOR: Rows = (
    ("net.learned_query", "prior.position"),
    ("net.null_brain_embeds", "prior.null_condition"),
    ("net.null_image_embed", "prior.null_tokens"),
    ("net.to_time_embeds.0.1.net.0.0.", "prior.time_mlp.0."),
    ("net.to_time_embeds.0.1.net.1.0.", "prior.time_mlp.2."),
    ("net.to_time_embeds.0.1.net.2.", "prior.time_mlp.4."),
    (f"{_LAYER}1.5.", f"{_OURS}feed_forward.3."),
)
_QUERY_PRIOR: Rows = (
    ("net.learned_query", "prior.query"),
    ("net.null_text_encodings", "prior.padding"),
    ("net.null_text_embeds", "prior.null_condition"),
    ("net.null_image_embed", "prior.null_tokens"),
    ("net.to_time_embeds.0.", "prior.time."),
    (f"{_LAYER}1.3.g", f"{_OURS}feed_forward.3.gain"),
    (f"{_LAYER}1.5.", f"{_OURS}feed_forward.4."),
)
# diffusers renamed the parts of its attention after 0.13, with which the weights were made.
_MID = "upsampler.mid_block.attentions.#."
_AUTOENCODER: Rows = (
    ("lin0.#.", "input.#."),
    ("mlp.#.#.", "blocks.#.#."),
    ("lin1.", "output."),
    ("norm.", "norm."),
    (f"{_MID}query.", f"{_MID}to_q."),
    (f"{_MID}key.", f"{_MID}to_k."),
    (f"{_MID}value.", f"{_MID}to_v."),
    (f"{_MID}proj_attn.", f"{_MID}to_out.0."),
    ("upsampler.", "upsampler."),
    ("maps_projector.#.", "head.#."),
)
_ROWS: dict[Kind, Rows] = {
    "257x768": _BACKBONE + _TRANSFORMER + _TOKEN_PRIOR,
    "1x768": _BACKBONE + _TRANSFORMER + _QUERY_PRIOR,
    "autoencoder": _AUTOENCODER,
}
# What tells the kinds apart.
_MARKS: dict[Kind, str] = {
    "257x768": "net.null_brain_embeds",
    "1x768": "net.null_text_encodings",
    "autoencoder": "upsampler.conv_in.weight",
}
SCHEDULE_TABLES = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "p2_loss_weight",
)
"""The noise schedule's tables, stored with a prior's weights under `noise_scheduler.`."""
_DERIVED = re.compile(
    rf"noise_scheduler\.({'|'.join(SCHEDULE_TABLES)})"
    r"|net\.causal_transformer\.layers\.\d+\.0\.rotary_emb\.freqs"
)


def kind_of(names: Iterable[str]) -> Kind:
    """Return the kind of a state dict from its published names.

    Raises:
        InputError: the names are of none of the three kinds, or of several.
    """
    there = set(names)
    kinds = [kind for kind, mark in _MARKS.items() if mark in there]
    if len(kinds) != 1:
        marks = ", ".join(f"{mark} ({kind})" for kind, mark in _MARKS.items())
        raise InputError(
            f"{len(there)} keys that are of no published kind, starting with "
            f"{sorted(there)[:3]}; expected exactly one of {marks}"
        )
    return kinds[0]


def our_name(published: str, kind: Kind) -> str | None:
    """Return our name for a published key, None where ours is derived from the config.

    Derived are the noise schedule's tables and the rotary frequencies.

    Raises:
        InputError: the key belongs to no part of the model.
    """
    if kind != "autoencoder" and _DERIVED.fullmatch(published):
        return None
    renamed = _renamed(published, _ROWS[kind])
    if renamed is None:
        raise InputError(f"{published}: not a key of the published {kind} model")
    return renamed


def published_name(ours: str, kind: Kind) -> str:
    """Return the published key for a tensor of ours.

    Raises:
        InputError: the published model has no such tensor.
    """
    renamed = _renamed(ours, [(new, old) for old, new in _ROWS[kind]])
    if renamed is None:
        raise InputError(f"{ours}: the published {kind} model has no such tensor")
    return renamed


def derived_names(depth: int) -> list[str]:
    """Return the keys of a prior of this many layers that ours derives from the config."""
    tables = [f"noise_scheduler.{table}" for table in SCHEDULE_TABLES]
    return tables + [
        f"{_LAYER.replace('#', str(layer))}0.rotary_emb.freqs" for layer in range(depth)
    ]


def _renamed(name: str, rows: Sequence[tuple[str, str]]) -> str | None:
    for old, new in rows:
        pattern = re.escape(old).replace(re.escape("#"), r"(\d+)")
        if match := re.match(pattern if old.endswith(".") else f"{pattern}$", name):
            numbers = iter(match.groups())
            return re.sub("#", lambda _: next(numbers), new) + name[match.end() :]  # noqa: B023
    return None
