"""What an ablation trains: the grid of its cells, and what they would cost."""
