"""Training: data on tensors, the loop and its checkpoints, and the two stages."""
