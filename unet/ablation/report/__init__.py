"""What finished runs say, side by side: results, statistics, charts, pages."""
