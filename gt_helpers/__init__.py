"""Redo, see and question the greater-than circuit of GPT-2 small (Hanna, Liu, Variengien 2023).

Everything public is imported from here; figures, tables and explorers from `gt_helpers.views`.
A name is looked up when it is first used, so importing the package needs nothing installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.2.0"

_ROOMS = {
    "analysis.attention": ("attention_map", "attention_pattern", "by_head"),
    "analysis.generalization": (
        *("compare_effects", "family_summary", "study_family", "top_numbers", "year_masses"),
    ),
    "analysis.geometry": (
        *("PCA_TEMPLATE", "edited_log_probs", "edited_streams", "fit_edits", "fit_pca"),
        *("fit_probe", "late_mlps", "nearest_gap", "pca_places", "read_stream", "ways_to_erase"),
    ),
    "analysis.logit_lens": (
        *("bias_effect", "depth_view", "direct_effect", "lens_numbers", "logit_lens"),
        *("relative_to_00", "step_height"),
    ),
    "analysis.neurons": (
        *("Neurons", "counts_up_to", "last_but_one", "needed_for", "neuron_ranking"),
    ),
    "dataset.corruptions": ("CORRUPTIONS", "Corruption"),
    "dataset.families": ("FAMILIES", "PromptFamily", "arithmetic_step"),
    "dataset.prompts": (
        *("load_nouns", "token_text", "token_texts", "tokenize", "valid_years"),
        *("year_pool", "year_range"),
    ),
    "dataset.year_dataset": ("YearDataset",),
    "differences.choices": ("CHOICES", "REFERENCE", "measure_choices"),
    "differences.clone": ("EXAMPLE_CLONE", "SkippedError", "load_without"),
    "differences.compare_prompts": ("compare_tokens", "compare_years", "paper_prompts"),
    "differences.comparison": ("Comparison",),
    "differences.diagnosis": ("diagnose",),
    "differences.heatmap": ("compare_sweep",),
    "edges.attribution": ("eap", "eap_ig"),
    "edges.discovery": ("agreement", "discover_circuit", "greedy_edges"),
    "edges.effects": ("edge_effects",),
    "edges.graph": ("EdgeGraph", "evaluate_edges"),
    "edges.quality": (
        *("completeness", "curve_areas", "edge_overlap", "faithfulness", "faithfulness_curves"),
        *("minimality", "necessity", "paired_differences", "stability"),
    ),
    "edges.scores": ("compare_scores", "worst_edges"),
    "formatting": ("in_words", "interval_in_words"),
    "metrics": (
        *("Measurement", "average", "bootstrap_ci", "correlation", "cutoff_sharpness"),
        *("mean_by_YY", "per_YY_probs", "prob_diff", "ratio", "recovered"),
    ),
    "model.cache": ("ActivationCache", "cache_activations", "end_logits"),
    "model.components": ("Component", "Edge", "component"),
    "model.load": ("is_gpt2_small", "load_model"),
    "patching.activation": ("activation_patching",),
    "patching.circuits": ("Circuit", "connect"),
    "patching.controls": (
        *("circuit_through", "direct_and_indirect", "leave_out", "random_circuits"),
        *("random_parts", "shifted_heads"),
    ),
    "patching.engine": ("Evaluation", "PathPatching", "Sweep"),
    "patching.paper": (
        *("PAPER", "CircuitParts", "acdc_circuit", "attention_sweeps", "circuit_parts"),
        *(
            "circuit_senders",
            "early_sweeps",
            "find_circuit",
            "full_circuit",
            "partial_circuit",
            "with_components",
        ),
    ),
    "patching.preview": ("Preview",),
    "reproduce": ("run_scorecard",),
    "scorecard.claims": ("EVALUATIONS", "claims"),
    "scorecard.experiments": ("EXPERIMENTS",),
    "scorecard.results": ("load_results", "new_results"),
}

if TYPE_CHECKING:
    pass

_HOME = {name: room for room, names in _ROOMS.items() for name in names}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> object:
    """Import a public name from its room when it is first asked for."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
