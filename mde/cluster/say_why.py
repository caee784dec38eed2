"""What runs in Ray Train's controller. Apart from `fit`: the controller need not import torch."""

from typing import Any

from ray.train import UserCallback

from mde.cluster.session import find_input_error


class SayWhy(UserCallback):
    """Runs in Ray Train's controller."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Say which workers failed, and why; Ray Train then restarts all or gives up."""
        for rank, error in worker_exceptions.items():
            lines = str(find_input_error(error) or error).strip().splitlines() or [repr(error)]
            # Between them, Ray lists all that it knows of the worker.
            said = lines[0] if len(lines) == 1 else f"{lines[0]} … {lines[-1]}"
            print(f"worker {rank} failed: {said}", flush=True)
