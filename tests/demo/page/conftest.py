"""The viewer in one browser for all tests of a file."""

import pytest
from opened_viewer import viewer_opener


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A function that opens the viewer with options."""
    with viewer_opener(tmp_path_factory.mktemp("viewer")) as open_viewer:
        yield open_viewer
