"""A few optimizer steps on random images."""

import torch

from hfseg.models import Segmenter


def train(model: Segmenter, steps: int) -> None:
    """Take steps with weight decay, as the optimizer of a run does: only over what has a gradient."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.1)
    model.train()
    for step in range(steps):
        torch.manual_seed(step)
        logits, aux_logits = model(torch.rand(2, 3, 64, 64))
        total = logits.square().mean() if aux_logits is None else logits.square().mean() + aux_logits.square().mean()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
