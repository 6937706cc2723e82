import numpy as np
import pytest

from raycls.data.contact_sheet import CELL, COLUMNS, GAP, contact_sheet
from tests.unit.data import shapes


@pytest.mark.usefixtures("home")
def test_each_class_has_a_row_of_its_own_training_images():
    sheet = np.asarray(contact_sheet(shapes.make()))
    assert sheet.shape[0] == GAP + 2 * (CELL + GAP)
    left = sheet.shape[1] - COLUMNS * (CELL + GAP)
    scale = CELL // shapes.SIDE
    for row in range(2):
        for column in range(COLUMNS):
            top, start = GAP + row * (CELL + GAP), left + column * (CELL + GAP)
            cell = sheet[top : top + CELL : scale, start : start + CELL : scale]
            assert np.array_equal(cell, shapes.PIXELS[2 * column + row])
        assert (sheet[top : top + CELL, :left] < 128).any(), "the name of the class stands beside its row"
