"""The documentation site builds without a warning, needs no other host, and holds the API."""

import html
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(path.stem for path in (ROOT / "docs" / "api").glob("*.md"))
FETCHED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^\s>]*"
    r"|<link\b[^>]*\brel=[\"']?(?:stylesheet|preconnect|preload)[^>]*\bhref=[\"']?(?:https?:)?//[^\s>]*"
    r"|(?:@import|url\()\s*[\"']?(?:https?:)?//[^\s)]*",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="pip install 'p2pkit[docs]' to build the site")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    return folder


def words(page: Path) -> str:
    """The page's text, without tags."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", page.read_text())).split())


@pytest.mark.slow
def test_the_front_page_is_the_readme(site: Path) -> None:
    assert "p2pkit shards verify my.store --deep" in words(site / "index.html")
    assert (site / "images" / "overview.png").is_file()


@pytest.mark.slow
def test_nothing_is_fetched_from_other_hosts(site: Path) -> None:
    files = [*site.rglob("*.html"), *site.rglob("*.css")]
    found = [
        f"{file.name}: {hit[0]}" for file in files for hit in FETCHED.finditer(file.read_text())
    ]
    assert not found
    # mermaid's script would come from a CDN: no page may hold such a diagram.
    assert not [file.name for file in files if 'class="mermaid"' in file.read_text()]


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://unpkg.com/x.js">',
        '<link rel="stylesheet" href="//fonts.example/css">',
        "@font-face{src:url(https://fonts.example/a.woff2)}",
    ],
)
def test_the_pattern_finds_what_is_fetched(text: str) -> None:
    assert FETCHED.search(text)


def test_every_subpackage_has_a_page() -> None:
    inside = {path.parent.name for path in (ROOT / "p2pkit").glob("*/__init__.py")}
    # The command line has a page of its own; the engine is MinkowskiEngine's installer; the viewer
    # is a part of report pages.
    assert set(PACKAGES) == inside - {"cli", "minkowski", "viewer"} | {"p2pkit"}


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKAGES)
def test_api_pages_hold_the_docstrings_of_public_names(name: str, site: Path) -> None:
    page = site / "api" / f"{name}.html"
    source, text = page.read_text(), words(page)
    package = importlib.import_module("p2pkit" if name == "p2pkit" else f"p2pkit.{name}")
    documented = 0
    for public in getattr(package, "__all__", ()):
        value = getattr(package, public)
        if not callable(value) or not value.__module__.startswith(package.__name__):
            continue
        first = (value.__doc__ or "").strip().splitlines()[0]
        assert f'id="{value.__module__}.{value.__qualname__}"' in source, public
        assert " ".join(first.replace("`", "").split()) in text, public
        documented += 1
    assert documented or "doc-function" in source


@pytest.mark.slow
def test_internal_modules_are_not_in_the_api(site: Path) -> None:
    every = "".join(page.read_text() for page in (site / "api").glob("*.html"))
    modules = {found.rpartition(".")[0] for found in re.findall(r'id="(p2pkit\.[\w.]+)"', every)}
    assert "p2pkit.geometry.camera" in modules
    internal = re.compile(r"kernels|claims|npy|edge_points|torchvision_shim|serialization")
    assert not [module for module in modules if internal.search(module)]


@pytest.mark.slow
def test_the_stages_stand_in_the_api(site: Path) -> None:
    source = (site / "api" / "pipelines.html").read_text()
    for stage in (
        "extract.run",
        "train.run",
        "evaluate.probe",
        "evaluate.run",
        "check.run",
        "report.run_page",
    ):
        assert f'id="p2pkit.pipelines.{stage}.run"' in source
