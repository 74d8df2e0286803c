"""The video side: normalise any film, decode it, turn its frames into hierarchical features.

The way of a film: `probe` (what is in it, asked of `inspection` in a process of its own) → `normalise` (the mezzanine, by way of
`filters` and `tone`; `damage` says where a broken film breaks) → `decode` → `backbones` → `embed` → `shards` (the file). `weights`
fetches what pretrained models need (from the `hub`), and `weights_record` finds it again; `prefetch` decodes ahead of the backbone, and
`journal` keeps what a stopped job has done. `precomputed` finds features that users bring; `cuts`, `look` and `thumbnails` make pictures
for the report. Nothing but the neural backbones imports torch.
"""
