"""Measure training from encoded shards beside training from packed arrays. Writes results/streaming.md.

    raycls data prepare photos/ --size 224 --name photos
    raycls data prepare photos/ --size 224 --name photos-shards --store encoded
    python benchmarks/streaming_data.py formats --images photos/               # bytes, time and error of each format
    python benchmarks/streaming_data.py speed --packed photos --encoded photos-shards --network resnet18
    python benchmarks/streaming_data.py accuracy --packed photos --encoded photos-shards --seeds 0,1,2
    python benchmarks/streaming_data.py ray --encoded photos-shards            # beside Ray Data's streaming_split
    python benchmarks/streaming_data.py bucket --memory-mb 1500                # as root: 3 × the memory, from S3
    python benchmarks/streaming_data.py threshold --memory-mb 1500             # as root: where shards become faster

`bucket` and `threshold` make their own datasets in a temporary folder, and `bucket` a stand-in of S3. They need a
memory controller of cgroup v1 or v2 that they may write. The figures say nothing about a bucket beyond a network. The
last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Callable
from pathlib import Path

from harness import results_page
from harness.results_page import Document, Row, mean_and_spread, median, ratio, share, table

from raycls import command

RESULTS = Path(__file__).parent / "results"
HEAD = """# Training from shards

Made by `python benchmarks/streaming_data.py formats`, `speed`, `accuracy`, `ray`, `bucket` and `threshold`.
"""
FORMATS = """## Formats

{images} pictures of {folder}, resized as `raycls data prepare` does, one thread. The error is the root of the mean
square over all pixels, in grey levels of 255.

"""
SPEED = """## Speed

The same pictures from an array and from shards, the same network, in turns in one process. images/s counts the steps
after the first one; the first batch counts from the start of an epoch.

"""
ACCURACY = """## Accuracy

On the test split, mean ± standard deviation over the seeds.

"""
RAY = """## Beside Ray Data

Two consumers read and decode an epoch, without a network: by raycls's reader, and by `read_parquet`, `map_batches`, a
local shuffle and `streaming_split`. Both count from the call, and images/s includes the wait for the first batch.

"""
BUCKET = """## More than memory, from a bucket

Two workers without a shard on their disk, in a control group with less memory than the dataset has, read from a
stand-in of S3 on the same machine, which is outside the group.

"""
THRESHOLD = """## Arrays or shards

One process with two threads reads batches of 64 images in random order, without a network, and has {memory:,} MB of
memory for itself and for the pages of files. Both kinds hold the same images of noise. The second epoch counts.

"""


def formats_section(documents: dict[str, Document]) -> str:
    (document,) = documents.values()
    lines = [
        (row["side"], row["format"], f"{row['share']:.1%}", f"{row['encode_ms']:.2f}", f"{row['decode_ms']:.2f}",
         f"{row['error']:.2f}")
        for row in document["rows"]
    ]  # fmt: skip
    header = ("pixels a side", "format", "bytes, share of the pixels'", "encode, ms", "decode, ms", "error")
    given = document["arguments"]
    return FORMATS.format(images=given["count"], folder=given["images"]) + table(header, lines)


def speed_section(documents: dict[str, Document]) -> str:
    lines = []
    for document in documents.values():
        rows, given = document["rows"], document["arguments"]
        lines.append(
            (
                f"{given['network']}, batch {given['batch_size']}",
                f"{median(rows, 'packed_per_s'):,.1f}",
                f"{median(rows, 'encoded_per_s'):,.1f}",
                f"{ratio([row['encoded_per_s'] / row['packed_per_s'] for row in rows])}, n={len(rows)}",
                f"{max(row['encoded_first_s'] for row in rows):.2f} s",
            )
        )
    header = ("network", "packed, images/s", "encoded", "ratio (goal 0.9)", "first batch (goal 10 s)")
    return SPEED + table(header, lines)


def accuracy_section(documents: dict[str, Document]) -> str:
    lines = []
    for document in documents.values():
        rows, given = document["rows"], document["arguments"]
        found = [share(*mean_and_spread(row[kind] for row in rows)) for kind in ("packed", "encoded")]
        lines.append((f"{given['preset']}, {given['network'] or 'fastcnn'}, n={len(rows)}", *found))
    return ACCURACY + table(("training", "packed", "encoded"), lines)


def ray_section(documents: dict[str, Document]) -> str:
    (document,) = documents.values()
    rows = document["rows"]
    lines = [
        (name, f"{median(rows, f'{kind}_first_s'):.2f} s", f"{median(rows, f'{kind}_per_s'):,.0f}")
        for name, kind in (("raycls", "raycls"), ("streaming_split", "ray"))
    ]
    return RAY + table(("reader", "first batch", f"images/s (n={len(rows)})"), lines)


def bucket_section(documents: dict[str, Document]) -> str:
    (document,) = documents.values()
    (row,) = document["rows"]
    lines = [
        ("memory of the workers", f"{row['memory_mb']:,} MB"),
        ("dataset", f"{row['dataset_mb']:,} MB, {row['images']:,} images ({row['times']:.1f} × the memory; goal 3)"),
        ("peak memory", f"{row['peak_mb']:,} MB"),
        ("bytes read in an epoch, of the dataset's (goal 1.05)", f"{row['read_share']:.3f}"),
        ("first batch", f"{row['first_s']:.1f} s"),
        ("images/s", f"{row['per_s']:,.0f}"),
    ]  # fmt: skip
    return BUCKET + table(("", ""), lines)


def threshold_section(documents: dict[str, Document]) -> str:
    (document,) = documents.values()
    lines = [
        (f"{row['share']:.2f} × the memory, {row['images']:,} images", f"{row['packed_per_s']:,.0f}",
         f"{row['encoded_per_s']:,.0f}")
        for row in document["rows"]
    ]  # fmt: skip
    header = ("pixels", "packed, images/s", "encoded")
    return THRESHOLD.format(memory=document["arguments"]["memory_mb"]) + table(header, lines)


SECTIONS = {
    "formats": formats_section,
    "speed": speed_section,
    "accuracy": accuracy_section,
    "ray": ray_section,
    "bucket": bucket_section,
    "threshold": threshold_section,
}

MEASURES = {
    "formats": ("streaming_formats", "measure"),
    "speed": ("streaming_training", "speed"),
    "accuracy": ("streaming_training", "accuracy"),
    "ray": ("streaming_ray", "measure"),
    "bucket": ("streaming_bucket", "measure"),
    "threshold": ("streaming_threshold", "measure"),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    formats = parts.add_parser("formats", help="bytes, time and error of JPEG, PNG and WebP")
    formats.add_argument("--images", required=True, help="a folder of photographs")
    formats.add_argument("--count", type=int, default=50)
    speed = parts.add_parser("speed", help="images/s beside a packed version, and the first batch")
    accuracy = parts.add_parser("accuracy", help="test accuracy over seeds beside a packed version")
    for part in (speed, accuracy):
        part.add_argument("--packed", required=True, help="a prepared dataset")
        part.add_argument("--encoded", required=True, help="the same images with --store encoded")
    speed.add_argument("--network", default="resnet18")
    speed.add_argument("--batch-size", type=int, default=32)
    speed.add_argument("--steps", type=int, default=10, help="of each turn, after the first step")
    speed.add_argument("--rounds", type=int, default=5)
    accuracy.add_argument("--network")
    accuracy.add_argument("--preset", default="quick")
    accuracy.add_argument("--seeds", type=results_page.seeds, default=[0, 1, 2])
    of_ray = parts.add_parser("ray", help="beside Ray Data's streaming_split")
    of_ray.add_argument("--encoded", required=True, help="a dataset prepared with --store encoded")
    of_ray.add_argument("--batch-size", type=int, default=64)
    of_ray.add_argument("--rounds", type=int, default=3)
    bucket = parts.add_parser("bucket", help="a dataset of 3 × the memory, from a stand-in of S3")
    bucket.add_argument("--memory-mb", type=int, default=1500, help="of both workers together")
    bucket.add_argument("--times", type=float, default=3.0, help="the dataset's bytes, of the memory")
    threshold = parts.add_parser("threshold", help="reading arrays and shards, with less memory than pixels")
    threshold.add_argument("--memory-mb", type=int, default=1500, help="of the reader")
    threshold.add_argument("--shares", type=_shares, default=[0.25, 0.5, 0.75, 1.0, 2.0], metavar="X,X")
    return parser


def _shares(text: str) -> list[float]:
    return [float(each) for each in text.split(",")]


def main(arguments: list[str]) -> None:
    options = _parser().parse_args(arguments)
    given = {name: value for name, value in vars(options).items() if name != "part"}
    # Each part imports what it measures alone.
    module, function = MEASURES[options.part]
    measure: Callable[..., list[Row]] = getattr(importlib.import_module(f"harness.{module}"), function)
    rows = measure(**given)
    if "images" in given:  # a results file names no folder of the machine that made it
        given["images"] = Path(given["images"]).name
    document = results_page.document(options.part, given, rows)
    results_page.keep(RESULTS, "streaming", document)
    results_page.write(RESULTS, "streaming", HEAD, SECTIONS)
    print(json.dumps(document))


if __name__ == "__main__":
    command.run(main)
