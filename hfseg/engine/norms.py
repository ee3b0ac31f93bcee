"""What the batch norms of a run count over, in words: with several processes, it decides what is learnt."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norms_over(model: nn.Module, world_size: int) -> str:
    """Say what the batch norms of a model in training mode count over."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    live = [module for module in norms if module.training]
    if not live:
        return f"{len(norms)}, frozen" if norms else "none"
    frozen = f"; {len(norms) - len(live)} are frozen" if len(live) < len(norms) else ""
    if world_size == 1:
        return f"{len(live)}, over the batch{frozen}"
    if all(isinstance(module, nn.SyncBatchNorm) for module in live):
        return f"{len(live)}, over the batches of all {world_size} processes (SyncBatchNorm){frozen}"
    return f"{len(live)}, over each process's own batch; the moving statistics of process 0 are kept{frozen}"
