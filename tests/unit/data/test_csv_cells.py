"""Names in CSV files that a spreadsheet would run as formulas."""

import csv
import io

import pytest

from metasgd.data.csv_cells import cell_text, csv_cell
from metasgd.data.images.tables import classes_of_table


@pytest.mark.parametrize("name", ["=cmd()", "+1+1", "-1+cmd()", "@SUM(A1)", "\t=1", "＝1", "'=1", "''@x", "=\n"])
def test_no_cell_begins_like_a_formula_and_all_are_read_again(name):
    assert csv_cell(name) == f"'{name}"
    assert cell_text(csv_cell(name)) == name


@pytest.mark.parametrize("name", ["-1", "+2.5e-3", "cat", "a=b", "'quoted'", "", "1-2", "שלום"])
def test_numbers_and_plain_names_stay_as_they_are(name):
    assert csv_cell(name) == name
    assert cell_text(name) == name


def test_a_table_written_so_names_the_same_files_and_classes(tmp_path):
    (tmp_path / "=1.png").touch()
    text = io.StringIO(newline="")
    csv.writer(text).writerows([["file", "label"], [csv_cell("=1.png"), csv_cell("@home")]])
    (tmp_path / "table.csv").write_text(text.getvalue(), encoding="utf-8", newline="")
    [found] = classes_of_table(tmp_path / "table.csv", tmp_path)
    assert (found.name, [file.name for file in found.files]) == ("@home", ["=1.png"])
