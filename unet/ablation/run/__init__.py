"""Train and evaluate every cell, each in a process of its own, and measure what a report needs.

cells.py         all cells of a grid, on an executor
executors/       where cells run: processes on this machine, or a Ray cluster
cell.py          one cell: train, evaluate, measure its cost
finished.py      finished runs, arranged by variant and seed
measurements.py  inference times, checkerboard spectra and example segmentations, stored with the report
dry_run.py       what a grid would train and how long that would take
"""
