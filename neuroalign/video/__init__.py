"""The video side: normalise any film, decode it, turn its frames into hierarchical features.

The way of a film: `probe` (what is in it, asked of `inspection` in a process of its own) → `normalise` (the mezzanine, by way of
`filters` and `tone`; `damage` says where a broken film breaks) → `decode` → `backbones` → `embed` → `shards` (the file). `precomputed` finds features that users bring; `thumbnails` makes pictures
for the report. Nothing but the neural backbones imports torch.
"""
