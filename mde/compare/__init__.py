"""Models side by side: scored anew on the same images, shown in the same colours, measured."""

from mde.compare.comparison import Comparison, Options, compare
from mde.compare.outputs import write_comparison
from mde.compare.sources import Contender, find_contenders, given_data, given_protocol

__all__ = [
    "Comparison", "Contender", "Options", "compare", "find_contenders", "given_data",
    "given_protocol", "write_comparison",
]  # fmt: skip
