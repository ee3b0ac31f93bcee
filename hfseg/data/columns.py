"""Which columns of a table hold the images and the masks, and whether the masks' column names the classes."""

from collections.abc import Mapping, Sequence
from typing import Any

from hfseg.data.classes import Classes
from hfseg.errors import DataError

_IMAGE_WORDS = ("image", "images", "img", "pixel_values", "picture", "photo")
_LABEL_WORDS = (
    "label", "labels", "mask", "masks", "annotation", "annotations", "segmentation", "segmentation_mask",
    "semantic_mask", "semantic_segmentation", "mask_image", "label_map", "seg",
)  # fmt: skip


def find_columns(features: Mapping[str, Any], image: str | None, label: str | None, *, name: str) -> tuple[str, str]:
    """Choose the columns of images and masks: as given, or by type and name.

    A column is an image's if its type is `Image`; a mask may also be a table of integers. Where exactly two image
    columns exist, knowing one of them is enough.

    Raises:
        DataError: a given column is missing or of another type, or none stands out; names the columns and their types.
    """
    images = [column for column, feature in features.items() if _is_image(feature)]
    masks = [column for column, feature in features.items() if _is_image(feature) or _is_table(feature)]
    for key, given, fitting in (("image_column", image, images), ("label_column", label, masks)):
        if given is not None and given not in fitting:
            problem = "is not there" if given not in features else f"is {_type_name(features[given])}, not an image"
            raise DataError(f"column `{given}` of `{name}` {problem} (`data.{key}`)", hint=_columns_are(features))
    image = image or _named(_IMAGE_WORDS, [column for column in images if column != label])
    label = label or _named(_LABEL_WORDS, [column for column in masks if column != image])
    if len(images) == 2 and (image is None) != (label is None):
        other = next(column for column in images if column not in (image, label))
        image, label = image or other, label or other
    if image is None or label is None:
        raise _not_found(features, images, image, name)
    return image, label


def known_classes(feature: Any) -> Classes | None:
    """Read the class names out of the type of the masks' column, where it has any."""
    import datasets

    while not isinstance(feature, datasets.ClassLabel):
        inner = getattr(feature, "feature", None)
        if inner is None:
            return None
        feature = inner
    return Classes(tuple(feature.names), origin="the type of the mask column")


def _not_found(features: Mapping[str, Any], images: Sequence[str], image: str | None, name: str) -> DataError:
    import datasets

    missing = "images" if image is None else "masks"
    kinds = [column for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if missing == "masks" and len(images) == 1 and kinds:
        message = f"`{name}` has one class for a whole image (column `{kinds[0]}`): expected a mask for each image"
        return DataError(message, hint="for images and masks in folders use `kind: folder` and `data.data_dir`")
    hint = f"{_columns_are(features)}; choose with `data.image_column` and `data.label_column`"
    return DataError(f"no column of `{name}` stands out as the {missing}", hint=hint)


def _columns_are(features: Mapping[str, Any]) -> str:
    return "the columns are " + ", ".join(f"{column} ({_type_name(feature)})" for column, feature in features.items())


def _named(words: Sequence[str], columns: Sequence[str]) -> str | None:
    return next((column for word in words for column in columns if column.lower() == word), None)


def _type_name(feature: Any) -> str:
    return str(getattr(feature, "dtype", None) or type(feature).__name__) if not _is_image(feature) else "Image"


def _is_image(feature: Any) -> bool:
    import datasets

    return isinstance(feature, datasets.Image)


def _is_table(feature: Any) -> bool:
    """Tell whether a type is rows of rows of numbers."""
    import datasets

    if isinstance(feature, datasets.Array2D):
        return True
    inner = getattr(feature, "feature", None)
    return isinstance(inner, datasets.List | datasets.LargeList) and not isinstance(inner.feature, datasets.List)
