"""What the Auto classes of Transformers learn from this package.

One line per class. Registering overrides what Transformers has under the same config, which for DiNAT cannot run:
its class needs operators that no release of NATTEN has any more, and passes them axes in a wrong order.
"""

from typing import Any

from transformers import AutoBackbone, AutoConfig, AutoModelForSemanticSegmentation, DinatConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES

from hfseg.models.backbones.dinat import DinatBackbone, NatBackbone, NatConfig
from hfseg.models.backbones.fastervit import FasterVitBackbone, FasterVitConfig
from hfseg.models.backbones.mobilenet_v2 import MobileNetV2Backbone, MobileNetV2BackboneConfig
from hfseg.models.backbones.neck import PyramidBackbone, PyramidConfig
from hfseg.models.backbones.timm import TimmConfig, TimmEncoder
from hfseg.models.fusion import FusionConfig, FusionForSemanticSegmentation
from hfseg.models.tmanet import TmanetConfig, TmanetForSemanticSegmentation

BACKBONES: dict[Any, Any] = {
    DinatConfig: DinatBackbone,
    NatConfig: NatBackbone,
    FasterVitConfig: FasterVitBackbone,
    MobileNetV2BackboneConfig: MobileNetV2Backbone,
    PyramidConfig: PyramidBackbone,
    TimmConfig: TimmEncoder,
}
"""Config class of an encoder -> its class."""
MODELS: dict[Any, Any] = {
    FusionConfig: FusionForSemanticSegmentation,
    TmanetConfig: TmanetForSemanticSegmentation,
}
"""Config class of a segmentation model -> its class."""


def register() -> None:
    """Tell the Auto classes of Transformers; telling them twice changes nothing."""
    for config_class, backbone_class in BACKBONES.items():
        if config_class.__module__.startswith("hfseg."):
            AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        AutoBackbone.register(config_class, backbone_class, exist_ok=True)
    for config_class, model_class in MODELS.items():
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        AutoModelForSemanticSegmentation.register(config_class, model_class, exist_ok=True)
        # The pipeline looks here alone, and else prints an error, though it runs.
        MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES[config_class.model_type] = model_class.__name__
