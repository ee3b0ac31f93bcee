"""Where models come from, a local folder or the Hub, and how weights are read. Nothing a model folder holds is run."""

import json
import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from safetensors import SafetensorError
from torch import Tensor
from transformers import CONFIG_MAPPING
from transformers.utils import logging

from hfseg.errors import ModelError

COMPUTED = re.compile(r"(relative_position_index|relative_coords_table|num_batches_tracked|position_ids)$")
"""Entries that some files hold and some do not, because the classes compute them."""
FAILURES = (ValueError, TypeError, LookupError, RuntimeError, ImportError, AssertionError)
"""How the classes of Transformers and timm fail on settings they cannot have, and their readers on damaged files."""
BEST = "best-miou"
"""The folder inside a run folder that stands for the run."""


@dataclass(frozen=True)
class Source:
    """A model folder or a Hub id whose config has been read."""

    location: str
    config: Mapping[str, Any]
    preprocessor: Mapping[str, Any] | None
    """The content of `preprocessor_config.json`, where there is one."""

    @property
    def model_type(self) -> str:
        """The family, as Transformers calls it."""
        return str(self.config["model_type"])


@dataclass(frozen=True)
class Loaded:
    """A model with weights, and how the weights fitted."""

    model: Any
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    """(name, shape in the file, shape in the model)"""


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Transformers' log lines and progress bars off stderr inside the block."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def locate(name: str) -> Source:
    """Find the model folder, run folder or Hub id `name` and read its config.

    A run folder stands for its `best-miou/`. A Hub id is looked up in the local cache first, so that what has been
    fetched once needs no network.

    Raises:
        ModelError: there is no such folder or id, it holds no model, or it asks for code of its own.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        inner = folder / BEST
        folder = inner if not (folder / "config.json").is_file() and inner.is_dir() else folder
        if not (folder / "config.json").is_file():
            raise ModelError(
                f"folder `{folder}` holds no config.json: expected a Transformers model folder or a run folder",
                hint=f"a run folder has one in {BEST}/ after its first validation",
            )
        source = Source(str(folder), _read(folder / "config.json"), _read_if(folder / "preprocessor_config.json"))
    elif folder.exists():
        raise ModelError(f"`{name}` is a file: expected a model folder", hint="give the folder that holds config.json")
    elif name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ModelError(
            f"model folder `{name}` does not exist", hint="give a folder, or a Hub id of the form owner/name"
        )
    else:
        config_path = _from_hub(name, "config.json")
        if config_path is None:
            raise ModelError(f"`{name}` on the Hub holds no config.json: expected a Transformers model")
        preprocessor_path = _from_hub(name, "preprocessor_config.json", optional=True)
        source = Source(name, _read(config_path), _read(preprocessor_path) if preprocessor_path else None)
    _check(source)
    return source


def load(model_class: Any, source: Source, *, config: Any, key_mapping: dict[str, str] | None = None) -> Loaded:
    """Build `model_class` from `config` with the weights of `source`, in float32, and say how they fitted.

    Raises:
        ModelError: the weights are not there or cannot be read, or the class cannot be built as `config` says.
    """
    options = {"config": config, "key_mapping": key_mapping, "dtype": torch.float32, "weights_only": True}
    try:
        with quiet():
            model, info = _from_pretrained(model_class, source.location, **options)
    except (SafetensorError, pickle.UnpicklingError, EOFError) as error:
        raise ModelError(f"weights of `{source.location}` cannot be read: {reason(error)}") from None
    except OSError:
        raise _no_weights(source.location) from None
    except FAILURES as error:
        raise _no_model(model_class, source.location, error) from None
    if info["error_msgs"]:
        raise ModelError(f"weights of `{source.location}` cannot be read: {'; '.join(info['error_msgs'])}")
    return _loaded(model, info)


def load_state(model_class: Any, state: Mapping[str, Tensor], *, config: Any, location: str) -> Loaded:
    """Build `model_class` from `config` with weights that have been read from `location` already, in float32.

    Raises:
        ModelError: the class cannot be built as `config` says.
    """
    options: dict[str, Any] = {"dtype": torch.float32, "ignore_mismatched_sizes": True, "output_loading_info": True}
    try:
        with quiet():
            model, info = model_class.from_pretrained(None, config=config, state_dict=dict(state), **options)
    except FAILURES as error:
        raise _no_model(model_class, location, error) from None
    return _loaded(model, info)


def _loaded(model: Any, info: Mapping[str, Any]) -> Loaded:
    mismatched = tuple(sorted((key, tuple(old), tuple(new)) for key, old, new in info["mismatched_keys"]))
    return Loaded(model, _stored(info["missing_keys"]), _stored(info["unexpected_keys"]), mismatched)


def _stored(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(name for name in names if not COMPUTED.search(name)))


def no_network(name: str) -> ModelError:
    """Say that `name` is not on this machine and cannot be fetched, and what to do."""
    return ModelError(
        f"`{name}` is no local folder and not in the Hub's local cache, and the Hub cannot be reached",
        hint=f"on a machine with a network run `hf download {name}`: it goes to {constants.HF_HUB_CACHE}, which can be "
        "copied; or give a local folder; `--pretrained none` is the only way to random weights",
    )


def reason(error: Exception) -> str:
    """Put what a library says of a failure into a line."""
    if isinstance(error, pickle.UnpicklingError):  # PyTorch's own text is about how to run what a file holds
        return "no file of PyTorch's, or one that holds more than tensors and plain values"
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return line if line and not isinstance(error, KeyError) else f"{type(error).__name__} {line}".strip()


def _from_pretrained(model_class: Any, location: str, **options: Any) -> Any:
    """Read weights from a folder, from the Hub's local cache, and only then from the Hub."""
    options |= {"ignore_mismatched_sizes": True, "output_loading_info": True, "trust_remote_code": False}
    if not Path(location).is_dir():
        try:
            return model_class.from_pretrained(location, local_files_only=True, **options)
        except OSError:  # not in the cache
            pass
    return model_class.from_pretrained(location, **options)


def _no_weights(location: str) -> ModelError:
    if not Path(location).is_dir():
        return no_network(location)
    return ModelError(
        f"model folder `{location}` holds no weights that can be read",
        hint="expected model.safetensors; `--pretrained none` is the only way to random weights",
    )


def _no_model(model_class: Any, location: str, error: Exception) -> ModelError:
    return ModelError(
        f"`{location}` cannot be opened as a `{model_class.__name__}`: {reason(error)}",
        hint="a file is damaged, or a setting in config.json or among the overrides cannot be",
    )


def _from_hub(name: str, filename: str, *, optional: bool = False) -> Path | None:
    try:
        cached = try_to_load_from_cache(name, filename)
        return Path(cached if isinstance(cached, str) else hf_hub_download(name, filename))
    except LocalEntryNotFoundError:
        if optional:
            return None
        raise no_network(name) from None
    except EntryNotFoundError:
        return None
    except GatedRepoError:
        raise ModelError(
            f"`{name}` on the Hub asks for a licence to be accepted first",
            hint=f"accept it on https://huggingface.co/{name}, then run `hf auth login`",
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise ModelError(
            f"`{name}` is neither a local folder nor a model on the Hub", hint="check the spelling of owner/name"
        ) from None
    except HfHubHTTPError as error:
        raise ModelError(f"`{name}` cannot be fetched from the Hub: {reason(error)}") from None


def _check(source: Source) -> None:
    model_type = source.config.get("model_type")
    for file, content in (("config.json", source.config), ("preprocessor_config.json", source.preprocessor or {})):
        if content.get("auto_map"):
            raise ModelError(
                f"`{source.location}` asks for code of its own (`auto_map` in {file}): such code is never run",
                hint=f"where Transformers' own `{model_type}` will do, take `auto_map` out of a copy of the folder"
                if model_type in CONFIG_MAPPING
                else "use a model whose class is part of Transformers",
            )
    if model_type in CONFIG_MAPPING:
        return
    if model_type is None:
        raise ModelError(f"config.json of `{source.location}` names no `model_type`: not a Transformers model")
    raise ModelError(
        f"`{source.location}` is a `{model_type}` model, which Transformers {transformers.__version__} does not know"
    )


def _read_if(path: Path) -> Mapping[str, Any] | None:
    return _read(path) if path.is_file() else None


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"`{path}` is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ModelError(f"`{path}` must hold keys and values: got {type(content).__name__}")
    return content
