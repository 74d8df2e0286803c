"""Encoders: raw inputs of one modality in, tokens of shape (n, steps, levels, dim) out."""
