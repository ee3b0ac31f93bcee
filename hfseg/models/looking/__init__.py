"""What single queries of an encoder attend to, head by head, read from the forward pass itself."""

from hfseg.models.looking.maps import ATTENTIVE, attention_maps
from hfseg.models.looking.record import AttentionMap

__all__ = ["ATTENTIVE", "AttentionMap", "attention_maps"]
