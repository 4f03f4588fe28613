"""What differs between the user's own prompts or heatmap and the paper's, and whether it matters.

`diagnose` takes prompts that the dataset would refuse; `compare_sweep` takes a heatmap.
"""

from .dataset import Diagnosis, diagnose
from .examples import MISTAKES
from .findings import Finding
from .heatmap import SweepComparison, compare_sweep

__all__ = [
    "MISTAKES",
    "Diagnosis",
    "Finding",
    "SweepComparison",
    "compare_sweep",
    "diagnose",
]
