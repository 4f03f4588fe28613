"""Path patching: the exact engine, circuits, and the paper's own procedure."""
