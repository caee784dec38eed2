"""Batch norm over all workers' samples, on every backend.

torch's own SyncBatchNorm refuses to run on a CPU, so neither a laptop nor a test could use it.
"""

import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose statistics in training are those of the global batch.

    Equal to `nn.BatchNorm2d` on the samples of all workers together, uneven shares included;
    statistics are in float32 under autocast. In eval mode, and with one worker, it is that class.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B,C,H,W) → (B,C,H,W). All workers must call it, in training."""
        distributed = torch.distributed
        alone = not (distributed.is_available() and distributed.is_initialized())
        if not self.training or alone or distributed.get_world_size() == 1:
            return super().forward(input)
        mean, var, count = self._global_moments(input.float())
        self._update_running(mean.detach(), var.detach(), count)
        scale = self.weight.float() * (var + self.eps).rsqrt()
        shift = self.bias.float() - mean * scale
        normed = input.float() * scale[None, :, None, None] + shift[None, :, None, None]
        return normed.to(input.dtype)

    def _global_moments(self, input: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pixels = input.new_full((1,), input.numel() / input.shape[1])
        local = input.mean((0, 2, 3))
        summed = all_reduce(torch.cat([local * pixels, pixels]))
        count = summed[-1]
        mean = summed[:-1] / count
        # Around the global mean: a difference of squares would lose the digits.
        squares = (input - mean[None, :, None, None]).square().sum((0, 2, 3))
        return mean, all_reduce(squares) / count, count

    @torch.no_grad()
    def _update_running(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:
            momentum = 1.0 / float(self.num_batches_tracked)  # type: ignore[arg-type]
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        unbiased = var * (count / (count - 1))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)


def synchronize_batch_norm(module: nn.Module) -> None:
    """Let every batch norm of a module take its statistics over all workers, in place."""
    for part in module.modules():
        if type(part) is nn.BatchNorm2d:
            part.__class__ = SyncBatchNorm2d
