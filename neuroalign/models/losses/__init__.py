"""Loss terms of stage 1 (NTCL), one per file."""
