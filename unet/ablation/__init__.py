"""Ablations: many runs that differ in their upsampler and seed, planned, trained and reported.

plan/    from a YAML grid to cells: one configuration for each variant and seed
run/     train and evaluate every cell, on this machine or on a Ray cluster; measure costs, times and pictures
report/  from finished runs and their measurements to statistics, charts, tables and pages; measures nothing
"""
