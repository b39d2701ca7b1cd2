"""The triplets that the instruction stage wrote, for those that go on with them."""

from pathlib import Path

from data_gen.files import read_lines
from data_gen.records import EditTriplet, triplet_from_json


def read_triplets(path: Path) -> list[EditTriplet]:
    """Read what `stage.write_triplets` wrote.

    Raises:
        FileNotFoundError: The stage has not run yet.
        ValueError: The file is empty, or a line is no triplet.
    """
    return read_lines(path, triplet_from_json, stage="instructions")
