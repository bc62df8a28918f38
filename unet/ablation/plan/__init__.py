"""From a grid in YAML to the cells of an ablation."""
