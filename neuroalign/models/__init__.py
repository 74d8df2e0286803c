"""The model: encoders, losses, quantisers, the assembled network, scores, and trained models on disk."""
