"""Parts of pretrained pipelines, from a folder or the hub, read strictly.

diffusers and transformers leave what a file does not hold at random, and drop what they do not
know; here both are errors.
"""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from mindeye_dist.errors import InputError


def load_part(
    kind: Any,
    source: str | Path,
    subfolder: str = "",
    *,
    safetensors: bool = True,
) -> Any:
    """Return a network of diffusers or transformers with its weights, in float32.

    Args:
        kind: its class, which has `from_pretrained`.
        source: folder in the layout of `save_pretrained`, or a name on the Hugging Face hub.
        subfolder: where in `source` the network is.
        safetensors: read these, or else pickles by torch's weights-only loader.

    Raises:
        InputError: there is no such network, or its weights do not fit its config.
    """
    where = _place(kind, source, subfolder)
    try:
        network, info = kind.from_pretrained(
            str(source),
            subfolder=subfolder,
            use_safetensors=safetensors,
            local_files_only=Path(source).exists(),
            output_loading_info=True,
            # diffusers would leave what is missing without memory and fail elsewhere.
            low_cpu_mem_usage=False,
        )
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise InputError(f"{where}: no {kind.__name__} could be loaded: {error}") from error
    problems = {key: sorted(info[key]) for key in ("missing_keys", "unexpected_keys") if info[key]}
    if problems:
        raise InputError(f"{where}: the weights do not fit the config: {problems}")
    return network.float()


def load_settings(kind: Any, source: str | Path, subfolder: str, **options: Any) -> Any:
    """Return a scheduler or tokenizer, which has no weights, from its folder.

    Args:
        kind: its class; it need not be the one that wrote the folder.
        source: folder in the layout of `save_pretrained`, or a name on the Hugging Face hub.
        subfolder: where in `source` it is.
        options: settings that replace those of the folder.

    Raises:
        InputError: there is no such scheduler or tokenizer.
    """
    where = _place(kind, source, subfolder)
    local = Path(source).exists()
    try:
        return kind.from_pretrained(
            str(source), subfolder=subfolder, local_files_only=local, **options
        )
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{where}: no {kind.__name__} could be loaded: {error}") from error


def _place(kind: Any, source: str | Path, subfolder: str) -> str:
    """Return where a part is, having seen that a folder is there."""
    where = f"{source}/{subfolder}" if subfolder else str(source)
    is_path = str(source).startswith(("/", ".")) or Path(source).exists()
    if is_path and not Path(where).is_dir():
        raise InputError(
            f"{where}: no such folder, expected one of a {kind.__name__} in the layout of "
            "save_pretrained"
        )
    return where
