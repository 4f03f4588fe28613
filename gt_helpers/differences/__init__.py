"""Why results differ: one choice at a time, and somebody else's prompts, heatmap or code."""
