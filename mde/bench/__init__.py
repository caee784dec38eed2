"""What depth models cost, in every way to run them, side by side."""

from mde.bench.benchmark import Benchmark, Group, Plan, bench, measure_costs
from mde.bench.models import BenchModel, find_model
from mde.bench.modes import MODES, Mode, pick_modes
from mde.bench.outputs import as_content, as_markdown, as_table
from mde.bench.turns import Pace, Result

__all__ = [
    "MODES",
    "BenchModel",
    "Benchmark",
    "Group",
    "Mode",
    "Pace",
    "Plan",
    "Result",
    "as_content",
    "as_markdown",
    "as_table",
    "bench",
    "find_model",
    "measure_costs",
    "pick_modes",
]
