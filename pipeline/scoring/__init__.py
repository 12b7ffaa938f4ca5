"""Metrics, splits, blends and decisions: numpy, scipy and scikit-learn only."""
