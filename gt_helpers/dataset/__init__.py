"""Prompts: the paper's clean and corrupted ones, other families, and those of other studies."""
