"""Text, the third modality: what is said about each window of a film, and the vector that stands for it.

Words come from a user's tables or subtitles (`tsv`), or from BLIP-2 (`blip2`), which describes a film once (`described`).
`build` lays them on the windows of the film and takes vectors from a text model (`embedding`). `captions` is the file;
what reads it imports no torch.
"""
