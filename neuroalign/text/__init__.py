"""Text, the third modality: what is said about each window of a film, and the vector that stands for it.

`build` makes the file of a film from captions that a user brings (`tsv`) or that BLIP-2 writes (`blip2`), and from the
vectors of a text model (`embedding`). `captions` is the file; what reads it imports no torch.
"""
