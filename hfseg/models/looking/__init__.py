"""What single queries of an encoder attend to, head by head, read from the forward pass itself."""

from hfseg.models.looking.maps import ATTENTIVE, attention_maps, has_attention
from hfseg.models.looking.memory import MemoryMap, memory_maps
from hfseg.models.looking.record import AttentionMap

__all__ = ["ATTENTIVE", "AttentionMap", "MemoryMap", "attention_maps", "has_attention", "memory_maps"]
