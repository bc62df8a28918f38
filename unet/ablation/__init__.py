"""Many runs that differ in their upsampler and seed: the grid, its execution, the statistics, the report.

grid.py        YAML to cells: which configurations to train
cell.py        one cell: train, evaluate, measure what it costs
plan.py        what a grid would train and cost: the dry run
execution.py   all cells, in processes on this machine or on a Ray cluster
timing.py      step and inference times, side by side
results.py     what finished runs hold, side by side
statistics.py  differences, and how sure they are
charts.py      the report's charts
report.py      report.html, report.md, results.csv
"""
