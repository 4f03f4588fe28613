"""Models: loaded, checked, and seen as plain tensors; the activation cache of one forward pass."""
