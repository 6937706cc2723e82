"""Prints the share of raycls/'s lines and branches that the tests cover. Exit code 1 under 90% of the lines.

coverage combine && python .ci/coverage_totals.py
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from coverage import Coverage

LEAST_PERCENT_OF_LINES = 90

measured = Coverage()
measured.load()
with tempfile.TemporaryDirectory() as folder:
    measured.json_report(outfile=f"{folder}/coverage.json")
    totals = json.loads(Path(f"{folder}/coverage.json").read_text())["totals"]
lines = totals["percent_statements_covered"]
print(f"lines     {totals['covered_lines']:,} of {totals['num_statements']:,} ({lines:.1f}%)")
print(
    f"branches  {totals['covered_branches']:,} of {totals['num_branches']:,} "
    f"({totals['percent_branches_covered']:.1f}%)"
)
if lines < LEAST_PERCENT_OF_LINES:
    sys.exit(f"error: fewer than {LEAST_PERCENT_OF_LINES}% of the lines are covered: add tests")
