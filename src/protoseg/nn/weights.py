"""Pre-trained encoder weights: from a local file (safetensors or a torch state dict, never unpickled code), or by a name."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn

from protoseg.torch_file import load_torch_file

_PREFIXES = ("module.", "encoder.", "backbone.", "model.")


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a file of named tensors.

    Args:
        path: `.safetensors`, or a torch file that holds a state dict (possibly under `state_dict` or `model`).

    Returns:
        Names to tensors, on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds something else, or would need unpickling of code.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no weights file {path}; give an existing file, or 'imagenet' or 'none'")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = load_torch_file(path)
    except Exception as error:  # on a file of another kind torch's reader raises whatever its bytes lead to
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(f"{path} cannot be read as a file of weights ({type(error).__name__}: {reason})") from error
    for key in ("state_dict", "model"):
        state = state.get(key, state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} is not a state dict (names to tensors)")
    return state


def load_encoder(encoder: nn.Module, state: dict[str, Tensor], *, source: str) -> None:
    """Load weights into an encoder: every tensor of the encoder must be found; extra ones (a classifier) are left out.

    Prefixes such as `module.` or `encoder.` are tried.

    Args:
        encoder: takes the weights.
        state: names to tensors.
        source: how messages name the weights.

    Raises:
        ValueError: tensors are missing or of another shape.
    """
    wanted = encoder.state_dict()
    candidates = [_strip(state, prefix) for prefix in ("", *_PREFIXES)]
    # smp keeps timm's networks below `model.`, and timm flattens some names there (stages.0.x becomes stages_0.x).
    flat = {key.replace(".", "_"): key for key in wanted}
    for candidate in list(candidates):
        wrapped = {key: f"model.{key}".replace(".", "_") for key in candidate}
        candidates.append({flat[wrapped[key]]: value for key, value in candidate.items() if wrapped[key] in flat})
    match = max(candidates, key=lambda candidate: len(wanted.keys() & candidate.keys()))
    # The step counters of BatchNorm are missing from converted files and change nothing.
    missing = [key for key in wanted if key not in match and not key.endswith("num_batches_tracked")]
    shapes = [key for key in wanted if key in match and match[key].shape != wanted[key].shape]
    if missing or shapes:
        names = ", ".join((missing + shapes)[:3])
        raise ValueError(
            f"{source} does not fit {type(encoder).__name__}: {len(missing)} of {len(wanted)} tensors are missing and "
            f"{len(shapes)} have another shape ({names}, ...). Choose the --model.encoder that the file was made for"
        )
    encoder.load_state_dict({key: match.get(key, value) for key, value in wanted.items()})


def adapt_first_layer(state: dict[str, Tensor], encoder: nn.Module) -> dict[str, Tensor]:
    """Fit RGB filters to another number of input channels: their sum for one, else repeated in turn and scaled by 3 / I.

    Args:
        state: names to tensors of a network with 3 input channels.
        encoder: a network with I input channels.

    Returns:
        `state`, with the first convolution's filters replaced where I is not 3.
    """
    first = next(m for m in encoder.modules() if isinstance(m, nn.Conv2d))
    channels = first.in_channels
    if channels == 3:
        return state
    shape = (first.out_channels, 3, *first.kernel_size)
    adapted = dict(state)
    repeated = [i % 3 for i in range(channels)]
    name = next((key for key, value in state.items() if tuple(value.shape) == shape), None)
    if name is not None:
        filters = state[name]
        adapted[name] = filters.sum(dim=1, keepdim=True) if channels == 1 else filters[:, repeated] * (3 / channels)
    return adapted


def is_file_name(weights: str | Path) -> bool:
    """Whether weights are a file rather than a name of some that are known."""
    if isinstance(weights, Path) or "/" in weights or Path(weights).is_file():
        return True
    return not {".safetensors", ".pth", ".pt", ".bin", ".ckpt"}.isdisjoint(Path(weights).suffixes)


_DOWNLOAD_ERRORS = {
    *("LocalEntryNotFoundError", "OfflineModeIsEnabled", "HfHubHTTPError", "HTTPError", "HTTPStatusError", "ProxyError"),
    *("ConnectionError", "TimeoutError", "TransportError", "RequestException", "MaxRetryError", "URLError", "SSLError"),
}
"""Names, not classes: they belong to whichever of requests, httpx and urllib3 the installed hub client uses."""


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Without the hub client's line for each of its retries: what it could not do is said once, by `unreachable`."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def is_download_error(error: BaseException) -> bool:
    """Whether an error of smp or timm comes from the network."""
    return any(cls.__name__ in _DOWNLOAD_ERRORS for e in _chain(error) for cls in type(e).__mro__)


def unreachable(encoder: str, weights: str, error: Exception) -> ConnectionError:
    """What to say where named weights could not be downloaded."""
    return ConnectionError(
        f"the {weights} weights of {encoder} could not be downloaded ({type(error).__name__}); "
        "give a local file with --model.weights FILE, or start from random with --model.weights none"
    )


def is_unpublished(error: BaseException) -> bool:
    """Whether timm has said that nobody has trained such a network, or that it has no weights of it."""
    return "No pretrained weights exist" in str(error)


def unpublished(encoder: str) -> ValueError:
    """What to say then."""
    return ValueError(
        f"timm has no weights of {encoder}; give a local file with --model.weights FILE, start from random with "
        "--model.weights none, or choose another --model.encoder"
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def first_line(error: BaseException) -> str:
    """Kind and first line of an error, short enough for a sentence."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__


def _strip(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items()}
