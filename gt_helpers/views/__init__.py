"""Figures, tables and explorers, one file per notebook: nothing is computed here but layout.

Figures are ``go.Figure`` of a fixed size that fits a notebook and the report alike, tables are
HTML, and explorers are ipywidgets that compute inside the message that asked for it.
"""

from .attention import attention_html, head_map, looks_heatmap, pattern_heatmap
from .circuit import changes_plot, distribution_plot
from .dataset import metric_by_YY, year_curve, year_heatmap, year_heatmaps, year_pool_map
from .differences import choices_matrix, effects_against
from .edges import quality_curves, score_scatter
from .kit.drawing import circuit_svg, edges_svg
from .kit.explorer import Explorer, View
from .kit.style import COLOURS
from .lens import depth_plot, lens_heatmap, lens_heatmaps
from .neurons import neuron_effects, pca_panels, share_curves
from .patching import effects_heatmap, sweep_heatmap, top_rows
from .scorecard import interval_plot, scorecard_plot
from .tables import (
    Html,
    agreement_table,
    beside_the_paper,
    choice_scores,
    choice_words,
    diagnosis_table,
    family_behaviour,
    family_recovery,
    frame_table,
    headline_table,
    html_table,
    lens_table,
    one_edge_drawing,
    quality_table,
    token_table,
    top_components,
    verdict_counts,
)
from .widgets import (
    attention_explorer,
    choice_explorer,
    circuit_builder,
    discovery_explorer,
    family_explorer,
    lens_explorer,
    mistake_explorer,
    neuron_explorer,
    path_explorer,
    pca_explorer,
    prompt_tracer,
    scorecard_explorer,
)

__all__ = [
    "COLOURS",
    "Explorer",
    "Html",
    "View",
    "agreement_table",
    "attention_explorer",
    "attention_html",
    "beside_the_paper",
    "changes_plot",
    "choice_explorer",
    "choice_scores",
    "choice_words",
    "choices_matrix",
    "circuit_builder",
    "circuit_svg",
    "depth_plot",
    "diagnosis_table",
    "discovery_explorer",
    "distribution_plot",
    "edges_svg",
    "effects_against",
    "effects_heatmap",
    "family_behaviour",
    "family_explorer",
    "family_recovery",
    "frame_table",
    "head_map",
    "headline_table",
    "html_table",
    "interval_plot",
    "lens_explorer",
    "lens_heatmap",
    "lens_heatmaps",
    "lens_table",
    "looks_heatmap",
    "metric_by_YY",
    "mistake_explorer",
    "neuron_effects",
    "neuron_explorer",
    "one_edge_drawing",
    "path_explorer",
    "pattern_heatmap",
    "pca_explorer",
    "pca_panels",
    "prompt_tracer",
    "quality_curves",
    "quality_table",
    "score_scatter",
    "scorecard_explorer",
    "scorecard_plot",
    "share_curves",
    "sweep_heatmap",
    "token_table",
    "top_components",
    "top_rows",
    "verdict_counts",
    "year_curve",
    "year_heatmap",
    "year_heatmaps",
    "year_pool_map",
]
