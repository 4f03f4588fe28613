"""Figures from results, in plotly: nothing is computed here but layout.

Every function returns a ``go.Figure`` of a fixed size that fits a notebook and the report alike;
only ``attention_html`` returns CircuitsVis' HTML.
"""

from .attention import attention_html, head_map, looks_heatmap, pattern_heatmap
from .choices import choices_matrix, effects_against
from .circuits import changes_plot, distribution_plot
from .claims import interval_plot, scorecard_plot
from .kit.style import COLOURS
from .lens import depth_plot, lens_heatmap, lens_heatmaps
from .neurons import neuron_effects, pca_panels, share_curves
from .quality import quality_curves, score_scatter
from .sweeps import effects_heatmap, sweep_heatmap
from .years import metric_by_YY, year_curve, year_heatmap, year_heatmaps, year_pool_map

__all__ = [
    "COLOURS",
    "attention_html",
    "changes_plot",
    "choices_matrix",
    "depth_plot",
    "distribution_plot",
    "effects_against",
    "effects_heatmap",
    "head_map",
    "interval_plot",
    "lens_heatmap",
    "lens_heatmaps",
    "looks_heatmap",
    "metric_by_YY",
    "neuron_effects",
    "pattern_heatmap",
    "pca_panels",
    "quality_curves",
    "score_scatter",
    "scorecard_plot",
    "share_curves",
    "sweep_heatmap",
    "year_curve",
    "year_heatmap",
    "year_heatmaps",
    "year_pool_map",
]
