"""What differs between the user's own prompts or heatmap and the paper's, and whether it matters.

`diagnose` takes prompts that the dataset would refuse; `compare_sweep` takes a heatmap.
"""

from ..heatmap import SweepComparison, compare_sweep
from .dataset import Diagnosis, diagnose
from .examples import MISTAKES
from .findings import Finding

__all__ = [
    "MISTAKES",
    "Diagnosis",
    "Finding",
    "SweepComparison",
    "compare_sweep",
    "diagnose",
]
