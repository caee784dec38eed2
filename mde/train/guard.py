"""Stop a run whose loss or gradient is not finite, before anything of it is kept."""

import json
from typing import Any

import torch
from torch import Tensor

from mde.schema import Batch
from mde.train.context import TrainContext

Terms = dict[str, Tensor]

MAX_SKIPPED = 20
"""Steps in a row that float16's gradient scaler may skip while it looks for its scale."""


class NotFiniteError(FloatingPointError):
    """A loss or gradient was NaN or infinite; trying again would give the same."""


class Guard:
    """Watches the steps of one worker.

    The gradients are averages over all workers, so all of them see the same and stop together. On
    a GPU a step is judged when the next one has been computed, so that no step waits for it.
    """

    def __init__(self, context: TrainContext, scaled: bool) -> None:
        self.context, self.scaled = context, scaled
        self.late = context.device.type == "cuda"
        self.skipped = 0
        self._pending: tuple[Tensor, Terms, Batch, int] | None = None

    def watch(self, grad_norm: Tensor, terms: Terms, batch: Batch, step: int) -> None:
        """Take a step: the norm of its averaged gradients, and this worker's loss terms.

        Raises NotFiniteError, see `check`.
        """
        if self.late:
            self.check()
        self._pending = grad_norm, terms, batch, step
        if not self.late:
            self.check()

    def check(self) -> None:
        """Judge what is still to be judged; to be called before a checkpoint.

        Writes `non_finite-rank<r>-step<s>.safetensors` into the run's storage : the batch's
        tensors; its metadata hold sample_id and the loss terms. Raises NotFiniteError.
        """
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._judge(*pending)

    def _judge(self, grad_norm: Tensor, terms: Terms, batch: Batch, step: int) -> None:
        if bool(torch.isfinite(grad_norm)):
            self.skipped = 0
            return
        finite_loss = bool(torch.isfinite(terms["loss"]))
        if self.scaled:
            # The scaler leaves such a step out and lowers its scale.
            self.skipped += 1
            if self.skipped <= MAX_SKIPPED:
                return
        values = {name: value.item() for name, value in terms.items()}
        listed = ", ".join(f"{name}={value:g}" for name, value in values.items())
        what = "gradient" if finite_loss else "loss"
        name = f"non_finite-rank{self.context.rank}-step{step}.safetensors"
        self.context.storage.write(name, _pack(batch, values))
        raise NotFiniteError(
            f"step {step}: the {what} is not finite ({listed}); samples: "
            f"{', '.join(batch['sample_id'])}. The batch is kept in "
            f"{self.context.storage.uri}/{name}"
        )


def _pack(batch: Batch, terms: dict[str, float]) -> bytes:
    tensors = {k: v.cpu().contiguous() for k, v in batch.items() if isinstance(v, Tensor)}
    named = {"sample_id": list(batch["sample_id"]), "terms": {k: str(v) for k, v in terms.items()}}
    # Only a run that fails needs it, so steps can be measured where there is torch alone.
    from safetensors.torch import save

    metadata: dict[str, Any] = {name: json.dumps(value) for name, value in named.items()}
    return save(tensors, metadata)
