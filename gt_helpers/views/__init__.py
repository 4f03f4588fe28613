"""Figures, tables and explorers, one file per notebook; explorers call the other wings.

Figures are ``go.Figure`` of a fixed size that fits a notebook and the report alike, tables are
HTML, and explorers are ipywidgets that compute inside the message that asked for it.
"""

# ruff: noqa: F401  what is imported here is what is public

from .attention import (
    attention_explorer,
    attention_html,
    head_map,
    looks_heatmap,
    pattern_heatmap,
)
from .circuit import (
    changes_plot,
    circuit_builder,
    distribution_plot,
    family_behaviour,
    family_explorer,
    family_recovery,
    headline_table,
)
from .dataset import (
    metric_by_YY,
    prompt_tracer,
    token_table,
    year_curve,
    year_heatmap,
    year_heatmaps,
    year_pool_map,
)
from .differences import (
    choice_changes,
    choice_explorer,
    choice_scores,
    choice_words,
    choices_matrix,
    diagnosis_table,
    explained_table,
    mistake_explorer,
)
from .edges import (
    agreement_table,
    discovery_explorer,
    quality_curves,
    quality_table,
    score_scatter,
)
from .kit.drawing import circuit_svg
from .kit.explorer import Explorer, View
from .kit.html import Html, frame_table, html_table
from .lens import depth_plot, lens_explorer, lens_heatmap, lens_heatmaps, lens_table
from .neurons import neuron_effects, neuron_explorer, pca_explorer, pca_panels, share_curves
from .patching import (
    effects_heatmap,
    one_edge_drawing,
    path_explorer,
    sweep_heatmap,
    top_components,
    top_rows,
)
from .scorecard import (
    beside_the_paper,
    interval_plot,
    scorecard_explorer,
    scorecard_plot,
    verdict_counts,
)
