"""The page of benchmarks/calibration.py, from its documents."""

from __future__ import annotations

from harness.results_page import Document, Row, mean_and_spread, share, table

HEAD = """# Calibration

Made by `python benchmarks/calibration.py`. The temperature is fitted on `val` and told on images that took no part.
The calibration error is that of `raycls.metrics.calibration_error`: 15 bins of equal width, less what chance adds, with
a 95% interval from the bootstrap. *Guo's* is the same without the subtraction. *By class* is a scale and an offset for
each class in place of one temperature, fitted on the same images. *Answered* is the share of images that a threshold
for the named precision leaves, found on `val` as `raycls reject` does, and how many of these answers are right.
"""
HOW = {
    "existing": "models that were there",
    "probe": "a linear head on fixed features, each image answered by a head that did not learn it",
}
GOAL = 0.015


def models(documents: dict[str, Document]) -> str:
    """Return a table for each dataset and way of training."""
    return "\n".join(map(_of_dataset, documents.values()))


def _of_dataset(document: Document) -> str:
    rows, given = document["rows"], document["arguments"]
    header = (
        "model",
        "accuracy",
        "temperature",
        "error before",
        "error after",
        "Guo's before → after",
        "by class",
        "log loss before → after (by class)",
        f"answered at {given['precision']:.0%}",
    )
    lines = [[row["model"], *_line(row)] for row in rows]
    if len(rows) > 1:
        lines.append(["**mean**", *_means(rows)])
    how = HOW.get(given["how"], f"preset `{given['how']}`")
    facts = (
        f"{given['size']} pixels; {how}. {rows[0]['fit_images']:,} images fit each temperature, "
        f"{rows[0]['test_images']:,} test, {document['date']} (UTC)."
    )
    within = sum(row["error_after"] <= GOAL for row in rows)
    goal = f"At most {GOAL:.1%}: {within} of {len(rows)}."
    return f"## {given['dataset']}\n\n{facts}\n\n{table(header, lines)}\n{goal}\n"


def _line(row: Row) -> list[str]:
    answered = "no threshold reaches it"
    if "threshold" in row:
        answered = (
            f"{row['answered'] / row['test_images']:.1%}, {row['right'] / max(row['answered'], 1):.2%} right"
        )
    return [
        share(row["accuracy_after"]),
        f"{row['temperature']:.2f}",
        share(row["error_before"]),
        f"{row['error_after']:.2%} ({row['low']:.2%} to {row['high']:.2%})",
        f"{row['plain_error_before']:.2%} → {row['plain_error_after']:.2%}",
        share(row["error_by_class"]),
        f"{row['log_loss_before']:.3f} → {row['log_loss_after']:.3f} ({row['log_loss_by_class']:.3f})",
        answered,
    ]


def _means(rows: list[Row]) -> list[str]:
    def of(key: str) -> str:
        return share(*mean_and_spread(row[key] for row in rows))

    return [of("accuracy_after"), "", of("error_before"), of("error_after"), "", of("error_by_class"), "", ""]


def simulation(documents: dict[str, Document]) -> str:
    """Return the table of estimators."""
    (document,) = documents.values()
    header = (
        "accuracy",
        "true error",
        "images",
        "equal width (Guo)",
        "equal mass",
        "sweep (Roelofs)",
        "raycls",
        "its interval holds the true error",
    )
    lines = [
        (
            f"{row['accuracy']:.0%}",
            share(row["true"]),
            f"{row['images']:,}",
            *(
                f"{row[name]:.2%} ± {100 * row[f'{name} rmse']:.1f}"
                for name in ("equal width", "equal mass", "sweep", "raycls")
            ),
            f"{row['holds']:.0%} of {row['draws']}",
        )
        for row in document["rows"]
    ]
    facts = (
        "Answers are drawn from models whose true error is known. Each cell is the mean estimate ± the root mean "
        f"square of its distance from the true error, {document['date']} (UTC)."
    )
    return f"## Which estimator\n\n{facts}\n\n{table(header, lines)}"


SECTIONS = {"models": models, "simulated": simulation}
