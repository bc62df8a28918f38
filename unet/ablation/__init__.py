"""Many runs that differ in their upsampler and seed: the grid, its execution, the statistics, the report.

grid.py        YAML to cells: which configurations to train
cell.py        one cell: train, evaluate, measure what it costs
execution.py   all cells, in processes on this machine or on a Ray cluster
timing.py      step and inference times, side by side
results.py     what finished runs hold, side by side
statistics.py  differences, and how sure they are
report.py      report.html, report.md, results.csv
"""
