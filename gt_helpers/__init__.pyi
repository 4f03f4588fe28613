"""What the package exports, as type checkers read it and as ``__init__.py`` looks it up."""

__version__: str

from .analysis.attention import (
    attention_map as attention_map,
    attention_pattern as attention_pattern,
    by_head as by_head,
)
from .analysis.generalization import (
    compare_effects as compare_effects,
    family_summary as family_summary,
    study_family as study_family,
    top_numbers as top_numbers,
    year_masses as year_masses,
)
from .analysis.geometry import (
    PCA_TEMPLATE as PCA_TEMPLATE,
    edited_log_probs as edited_log_probs,
    edited_streams as edited_streams,
    fit_edits as fit_edits,
    fit_pca as fit_pca,
    fit_probe as fit_probe,
    late_mlps as late_mlps,
    nearest_gap as nearest_gap,
    pca_places as pca_places,
    read_stream as read_stream,
    ways_to_erase as ways_to_erase,
)
from .analysis.logit_lens import (
    bias_effect as bias_effect,
    depth_view as depth_view,
    direct_effect as direct_effect,
    lens_numbers as lens_numbers,
    logit_lens as logit_lens,
    relative_to_00 as relative_to_00,
    step_height as step_height,
)
from .analysis.neurons import (
    Neurons as Neurons,
    counts_up_to as counts_up_to,
    last_but_one as last_but_one,
    needed_for as needed_for,
    neuron_ranking as neuron_ranking,
)
from .dataset.corruptions import CORRUPTIONS as CORRUPTIONS, Corruption as Corruption
from .dataset.families import (
    FAMILIES as FAMILIES,
    PromptFamily as PromptFamily,
    arithmetic_step as arithmetic_step,
)
from .dataset.prompts import (
    load_nouns as load_nouns,
    token_text as token_text,
    token_texts as token_texts,
    tokenize as tokenize,
    valid_years as valid_years,
    year_pool as year_pool,
    year_range as year_range,
)
from .dataset.year_dataset import YearDataset as YearDataset
from .differences.choices import (
    CHOICES as CHOICES,
    REFERENCE as REFERENCE,
    measure_choices as measure_choices,
)
from .differences.clone import (
    EXAMPLE_CLONE as EXAMPLE_CLONE,
    SkippedError as SkippedError,
    load_without as load_without,
)
from .differences.compare_prompts import (
    compare_tokens as compare_tokens,
    compare_years as compare_years,
    paper_prompts as paper_prompts,
)
from .differences.comparison import Comparison as Comparison
from .differences.diagnosis import diagnose as diagnose
from .differences.heatmap import compare_sweep as compare_sweep
from .edges.attribution import eap as eap, eap_ig as eap_ig
from .edges.discovery import (
    agreement as agreement,
    discover_circuit as discover_circuit,
    greedy_edges as greedy_edges,
)
from .edges.effects import edge_effects as edge_effects
from .edges.scores import compare_scores as compare_scores, worst_edges as worst_edges
from .edges.graph import EdgeGraph as EdgeGraph, evaluate_edges as evaluate_edges
from .edges.quality import (
    completeness as completeness,
    curve_areas as curve_areas,
    edge_overlap as edge_overlap,
    faithfulness as faithfulness,
    faithfulness_curves as faithfulness_curves,
    leave_one_out as leave_one_out,
    necessity as necessity,
    paired_differences as paired_differences,
    stability as stability,
)
from .formatting import in_words as in_words, interval_in_words as interval_in_words
from .metrics import (
    Measurement as Measurement,
    average as average,
    bootstrap_ci as bootstrap_ci,
    correlation as correlation,
    cutoff_sharpness as cutoff_sharpness,
    mean_by_YY as mean_by_YY,
    per_YY_probs as per_YY_probs,
    prob_diff as prob_diff,
    ratio as ratio,
    recovered as recovered,
)
from .model.cache import (
    ActivationCache as ActivationCache,
    cache_activations as cache_activations,
    end_logits as end_logits,
)
from .model.components import Component as Component, Edge as Edge, component as component
from .model.load import is_gpt2_small as is_gpt2_small, load_model as load_model
from .patching.activation import activation_patching as activation_patching
from .patching.circuits import Circuit as Circuit, connect as connect
from .analysis.controls import (
    circuit_through as circuit_through,
    direct_and_indirect as direct_and_indirect,
    leave_out as leave_out,
    random_circuits as random_circuits,
    random_parts as random_parts,
    shifted_heads as shifted_heads,
)
from .patching.engine import Evaluation as Evaluation, PathPatching as PathPatching, Sweep as Sweep
from .patching.paper import (
    PAPER as PAPER,
    CircuitParts as CircuitParts,
    attention_sweeps as attention_sweeps,
    circuit_parts as circuit_parts,
    circuit_senders as circuit_senders,
    early_sweeps as early_sweeps,
    find_circuit as find_circuit,
    full_circuit as full_circuit,
    partial_circuit as partial_circuit,
    with_components as with_components,
)
from .patching.published import acdc_circuit as acdc_circuit
from .analysis.preview import Preview as Preview
from .reproduce import run_scorecard as run_scorecard
from .scorecard.claims import (
    EVALUATIONS as EVALUATIONS,
    EXPERIMENTS as EXPERIMENTS,
    claims as claims,
)
from .scorecard.results import load_results as load_results, new_results as new_results
