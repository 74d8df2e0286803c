"""Text, the third modality: what is said about each window of a film, and the vector that stands for it.

`brought` makes the captions file of a film from a user's captions (`tsv`), `described` from what BLIP-2 (`blip2`) writes
about it; both take vectors from a text model (`embedding`). `captions` is the file; what reads it imports no torch.
"""
