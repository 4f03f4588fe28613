"""gt_helpers: the greater-than circuit of GPT-2 small, with exact path patching in plain PyTorch.

Import from the modules: models, dataset, path_patching, circuits, metrics, plots, reproduce.
"""

__version__ = "0.1.0"
