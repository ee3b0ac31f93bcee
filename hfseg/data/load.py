"""Opening data sets through `datasets.load_dataset`, and what to do where it cannot."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from hfseg.data.classes import Classes, read_classes
from hfseg.errors import DataError


@lru_cache(maxsize=8)
def load_splits(
    name: str, *, config_name: str | None = None, revision: str | None = None, streaming: bool = False
) -> Mapping[str, Any]:
    """Open every part of a data set on the Hub or in a local folder; part name -> `datasets` table or stream.

    Raises:
        DataError: it needs a loading script, cannot be reached, is gated, empty or broken; says what to do instead.
    """
    import datasets

    local = Path(name).expanduser()
    _check_name(name, local)
    try:
        if (local / "state.json").is_file() or (local / "dataset_dict.json").is_file():
            saved = datasets.load_from_disk(str(local))
            parts = saved if isinstance(saved, dict) else {"train": saved}
            return {key: part.to_iterable_dataset() if streaming else part for key, part in parts.items()}
        path = str(local) if local.exists() else name
        parts = datasets.load_dataset(path, config_name, revision=revision, streaming=streaming)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise _explained(name, error) from None
    return {str(key): part for key, part in parts.items()}


def undecoded(table: Any, *, image: str, label: str) -> Any:
    """Keep two columns under the names `image` and `label`; images stay bytes or paths."""
    import datasets

    kept = table.select_columns([image, label])
    for old, new in ((image, "image"), (label, "label")):
        kept = kept if old == new else kept.rename_column(old, new)
        if isinstance(kept.features[new], datasets.Image):
            kept = kept.cast_column(new, datasets.Image(decode=False))
    return kept


def hub_class_file(name: str) -> Classes | None:
    """Fetch `id2label.json` of a Hub data set, from the cache where there is no network; None where it has none.

    Raises:
        DataError: it is there and cannot be understood.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        return read_classes(Path(hf_hub_download(name, "id2label.json", repo_type="dataset")))
    except (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
    ):  # LocalEntryNotFound is among them
        return None


def _check_name(name: str, local: Path) -> None:
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    if looks_local and not local.exists():
        raise DataError(f"data folder `{name}` does not exist", hint="a Hub data set is named `owner/name`")


def _explained(name: str, error: Exception) -> DataError:
    text = " ".join(str(error).split())
    if "scripts are no longer supported" in text:
        return DataError(
            f"`{name}` needs a loading script, which `datasets` does not run any more",
            hint="try the Hub's own Parquet copy: --set data.revision=refs/convert/parquet; or take a Parquet data set "
            "of the same images, or download the files and use `kind: folder`",
        )
    if isinstance(error, ConnectionError):
        return DataError(
            f"`{name}` is not in the local cache and the Hub cannot be reached: {text}",
            hint=f"where there is a network: `hf download {name} --repo-type dataset --local-dir DIR`; then give DIR "
            "instead of the name",
        )
    if "gated" in text:
        return DataError(f"`{name}` is gated: {text}", hint="accept its terms on the Hub, then run `hf auth login`")
    return DataError(f"`{name}` cannot be opened by `datasets`: {text}", hint=_FORMS)


_FORMS = (
    "Parquet files, or an image folder whose metadata.csv has the columns file_name and mask_file_name, are opened; "
    "for images and masks in folders use `kind: folder`"
)
