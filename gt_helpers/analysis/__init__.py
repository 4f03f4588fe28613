"""What the circuit's parts do: attention, logit lens, neurons, geometry, other prompt families."""
