"""What studies cost and what they find, measured: `parts` measures, `page` writes; benchmarks/tuning.py calls both."""
