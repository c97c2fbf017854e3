"""Names of files and classes in the cells of a CSV file, which a spreadsheet may run as formulas."""

import re

FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
"""How a cell begins that a spreadsheet takes for a formula, or one that was guarded against it."""
NUMBER = re.compile(r"[+\-]?(\d+\.?\d*|\.\d+)([eE][+\-]?\d+)?")


def csv_cell(text: object) -> str:
    """A cell that no spreadsheet takes for a formula: one that could be gets an apostrophe in front.

    Numbers stay as they are. ``cell_text`` takes the apostrophe away.

    >>> csv_cell("=1+1"), csv_cell("-1"), csv_cell("a"), cell_text(csv_cell("=1+1"))
    ("'=1+1", '-1', 'a', '=1+1')
    """
    cell = str(text)
    return f"'{cell}" if FORMULA.match(cell) and not NUMBER.fullmatch(cell) else cell


def cell_text(cell: str) -> str:
    """What ``csv_cell`` made a cell of."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell
