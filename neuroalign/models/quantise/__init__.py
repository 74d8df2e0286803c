"""Vector quantisation of stage 2: codebook, residual quantiser, losses."""
