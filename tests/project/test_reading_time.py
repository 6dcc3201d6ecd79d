"""How much somebody must read who makes the project their own."""

from pathlib import Path

PROJECT = Path(__file__).parents[2] / "src" / "project"


def test_the_project_is_read_in_ten_minutes() -> None:
    assert sum(len(file.read_text().splitlines()) for file in PROJECT.rglob("*.py")) <= 1800
