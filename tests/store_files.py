"""What lies in a store's folder, for tests that compare whole stores."""

from pathlib import Path


def tree(store: Path) -> dict[str, bytes]:
    """Every file of a store but the claims, sorted by name."""
    files = [path for path in store.rglob("*") if path.is_file() and ".claims" not in path.parts]
    return {str(path.relative_to(store)): path.read_bytes() for path in sorted(files)}
