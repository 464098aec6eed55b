"""Measures of runnerd, as ratios to what the same machine does bare in the same run. `make bench`, `make soak`."""
