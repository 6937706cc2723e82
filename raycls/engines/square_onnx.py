"""What becomes of a picture before a network, as ONNX operators: the square of raycls/data/transforms.py.

    prepend(Path("cats.onnx"), size=64, resize="crop")     # the file now takes uint8 H×W×3 of any H and W

ONNX's Resize with antialias on uint8 computes as Pillow does. Two things differ a little: Pillow takes a crop that
begins between two pixels where this one takes the mean of two crops, and it first shrinks pictures of four times the
side or more by a whole factor.
"""

from __future__ import annotations

from pathlib import Path

from raycls.data.transforms import Resize

PICTURE = "picture"  # the input's name
# Of `sides`, the height and the width (int64 2), and `picture` to `squares`: uint8 N×3×S×S, of which the mean is taken.
_SQUARES: dict[Resize, str] = {
    "crop": """
        shorter = ReduceMin <keepdims = 1> (sides)
        over = Sub (sides, shorter)
        begin = Div (over, two)
        other_begin = Sub (over, begin)
        end = Add (begin, shorter)
        other_end = Add (other_begin, shorter)
        crop = Slice (picture, begin, end, both)
        other_crop = Slice (picture, other_begin, other_end, both)
        crop_batch = Unsqueeze (crop, first)
        other_batch = Unsqueeze (other_crop, first)
        parts = Concat <axis = 0> (crop_batch, other_batch)
        planes = Transpose <perm = [0, 3, 1, 2]> (parts)
        target = Constant <value_ints = [2, 3, SIDE, SIDE]> ()
        squares = Resize <mode = "linear", antialias = 1> (planes, , , target)
    """,
    "squash": """
        batch_of_one = Unsqueeze (picture, first)
        planes = Transpose <perm = [0, 3, 1, 2]> (batch_of_one)
        target = Constant <value_ints = [1, 3, SIDE, SIDE]> ()
        squares = Resize <mode = "linear", antialias = 1> (planes, , , target)
    """,
    "pad": """
        batch_of_one = Unsqueeze (picture, first)
        planes = Transpose <perm = [0, 3, 1, 2]> (batch_of_one)
        exact_sides = Cast <to = 11> (sides)
        longer = ReduceMax <keepdims = 1> (exact_sides)
        exact_side = Constant <value = double[1] {SIDE}> ()
        share = Div (exact_side, longer)
        scaled = Mul (exact_sides, share)
        rounded = Round (scaled)
        whole_pixels = Cast <to = 7> (rounded)
        one = Constant <value_ints = [1]> ()
        small_sides = Max (whole_pixels, one)
        leading = Constant <value_ints = [1, 3]> ()
        target = Concat <axis = 0> (leading, small_sides)
        small = Resize <mode = "linear", antialias = 1> (planes, , , target)
        full = Constant <value_ints = [SIDE, SIDE]> ()
        beside = Sub (full, small_sides)
        before = Div (beside, two)
        after = Sub (beside, before)
        none = Constant <value_ints = [0, 0]> ()
        pads = Concat <axis = 0> (none, before, none, after)
        squares = Pad (small, pads)
    """,
}
_GRAPH = """
    <ir_version: IR, opset_import: ["" : OPSET]>
    square (uint8[height, width, 3] picture) => (uint8[1, SIDE, SIDE, 3] square_image) {
        sides = Shape <end = 2> (picture)
        two = Constant <value_ints = [2]> ()
        both = Constant <value_ints = [0, 1]> ()
        first = Constant <value_ints = [0]> ()
        SQUARES
        values = Cast <to = 1> (squares)
        mean = ReduceMean <keepdims = 1> (values, first)
        whole = Round (mean)
        bytes = Cast <to = 2> (whole)
        square_image = Transpose <perm = [0, 2, 3, 1]> (bytes)
    }
"""


def prepend(path: Path, size: int, resize: Resize) -> None:
    """Change an ONNX file for squares, uint8 N×S×S×3 `images`, into one for a `picture`: uint8 H×W×3, upright RGB."""
    import onnx
    from onnx import compose, parser

    network = onnx.load(path)
    (opset,) = (each.version for each in network.opset_import if not each.domain)
    text = _GRAPH.replace("SQUARES", _SQUARES[resize])
    for name, value in (("SIDE", size), ("OPSET", opset), ("IR", network.ir_version)):
        text = text.replace(name, str(value))
    square = compose.add_prefix(parser.parse_model(text), "square/", rename_inputs=False)
    # A network that was quantized has operators of another domain.
    del square.opset_import[:]
    square.opset_import.extend(network.opset_import)
    merged = compose.merge_models(square, network, io_map=[("square/square_image", "images")])
    onnx.checker.check_model(merged)
    onnx.save(merged, path)
