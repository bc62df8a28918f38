"""Many runs that differ in their upsampler and seed: planned, run, and reported.

plan/    what to train: YAML to cells; the dry run
run/     train every cell, in processes on this machine or on a Ray cluster; measure times and costs
report/  what finished runs say: results side by side, statistics, charts, pages
"""
