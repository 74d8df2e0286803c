"""BIDS: names, metadata, events, and the index of a dataset. Nothing here writes inside a dataset."""
