"""Podium: a competition pipeline for images, small enough to read in an afternoon."""
