import pytest

from metasgd.data.letters import Letter, letters


@pytest.fixture(scope="session")
def found() -> list[Letter]:
    """All the letters; finding them takes seconds."""
    return letters()
