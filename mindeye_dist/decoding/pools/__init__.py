"""mindeye_dist/decoding/pools."""
