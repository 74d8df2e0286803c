"""The native preprocessing engine: raw BOLD and T1w to BIDS derivatives in a template space."""
