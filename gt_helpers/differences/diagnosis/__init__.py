"""What differs between the user's own prompts and the paper's, and whether it matters."""

from .check import Finding
from .diagnose import Diagnosis, diagnose
from .planted import MISTAKES

__all__ = ["MISTAKES", "Diagnosis", "Finding", "diagnose"]
