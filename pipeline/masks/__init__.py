"""Arithmetic of masks: runs, maps on the shelf, metrics, decisions, mosaics. numpy, scipy and opencv only."""
