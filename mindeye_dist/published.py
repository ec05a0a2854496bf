"""The published checkpoints' key names, and ours.

Only this file knows how Scotti et al.'s released state dicts (commit 6b30ea5) name their tensors.
"""

import re

_PREFIXES = (
    (r"^module\.", ""),
    (r"^voxel2clip\.", ""),
)
_BACKBONE = (
    (r"^lin0\.(\d)\.", r"backbone.input.\1."),
    (r"^mlp\.(\d+)\.(\d)\.", r"backbone.blocks.\1.\2."),
    (r"^lin1\.", r"backbone.output."),
    (r"^projector\.(\d)\.", r"projector.layers.\1."),
)
_PRIOR = (
    (r"^net\.learned_query$", "prior.position"),
    (r"^net\.null_brain_embeds$", "prior.null_condition"),
    (r"^net\.null_image_embed$", "prior.null_tokens"),
    (r"^net\.to_time_embeds\.0\.1\.net\.0\.0\.", "prior.time_mlp.0."),
    (r"^net\.to_time_embeds\.0\.1\.net\.1\.0\.", "prior.time_mlp.2."),
    (r"^net\.to_time_embeds\.0\.1\.net\.2\.", "prior.time_mlp.4."),
    (r"^net\.causal_transformer\.rel_pos_bias\.relative_attention_bias\.", "prior.relative_bias."),
    (r"^net\.causal_transformer\.layers\.(\d+)\.0\.null_kv$", r"prior.layers.\1.attention.null_kv"),
    (
        r"^net\.causal_transformer\.layers\.(\d+)\.0\.norm\.g$",
        r"prior.layers.\1.attention.norm.gain",
    ),
    (r"^net\.causal_transformer\.layers\.(\d+)\.0\.to_q\.", r"prior.layers.\1.attention.query."),
    (
        r"^net\.causal_transformer\.layers\.(\d+)\.0\.to_kv\.",
        r"prior.layers.\1.attention.key_value.",
    ),
    (
        r"^net\.causal_transformer\.layers\.(\d+)\.0\.to_out\.0\.",
        r"prior.layers.\1.attention.output.",
    ),
    (
        r"^net\.causal_transformer\.layers\.(\d+)\.0\.to_out\.1\.g$",
        r"prior.layers.\1.attention.output_norm.gain",
    ),
    (r"^net\.causal_transformer\.layers\.(\d+)\.1\.0\.g$", r"prior.layers.\1.feed_forward.0.gain"),
    (r"^net\.causal_transformer\.layers\.(\d+)\.1\.1\.", r"prior.layers.\1.feed_forward.1."),
    (r"^net\.causal_transformer\.layers\.(\d+)\.1\.5\.", r"prior.layers.\1.feed_forward.3."),
    (r"^net\.causal_transformer\.norm\.g$", "prior.norm.gain"),
    (r"^net\.causal_transformer\.project_out\.", "prior.output."),
)
# Derived from the config here, not stored: the noise schedule's tables and the rotary frequencies.
_DERIVED = re.compile(r"^noise_scheduler\.|\.rotary_emb\.freqs$")


def our_name(published: str) -> str | None:
    """Return our name for a published key of the 257x768 model, None where ours is derived.

    Raises:
        ValueError: the key belongs to no part of the model.
    """
    name = published
    for pattern, replacement in _PREFIXES:
        name = re.sub(pattern, replacement, name)
    if _DERIVED.search(name):
        return None
    for pattern, replacement in _BACKBONE + _PRIOR:
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            return renamed
    raise ValueError(f"{published}: not a key of the published model")
