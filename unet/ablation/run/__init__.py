"""Bring every cell of a grid to its end: one process a cell, here or on a cluster."""
