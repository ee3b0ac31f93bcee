"""A headless Chromium for tests of pages: none is downloaded, the system's own is found."""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def open_browser():
    """Start Chromium, and skip the tests where it or Playwright is missing; to be used as a context."""
    playwright = pytest.importorskip("playwright.sync_api")
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium on this machine")
    return _Browser(playwright, found)


class _Browser:
    def __init__(self, playwright, executable):
        self._playwright = playwright.sync_playwright()
        self._executable = executable

    def __enter__(self):
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        self.browser = self._playwright.start().chromium.launch(executable_path=self._executable, args=root)
        return self.browser

    def __exit__(self, *_):
        self.browser.close()
        self._playwright.__exit__()


def artifact(name: str) -> Path:
    """Name a file that a test leaves for people to look at: in `$HFSEG_ARTIFACTS`, else `artifacts/` of the repository."""
    folder = Path(os.environ.get("HFSEG_ARTIFACTS", Path(__file__).parents[1] / "artifacts"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


class Watched:
    """A page, and everything it asked for and complained about."""

    def __init__(self, context):
        self.page = context.new_page()
        self.requests, self.complaints = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))


@contextmanager
def quiet_page(browser, path: Path, picture: str, settings):
    """Open a page from its file, and see at the end that it asked for nothing and complained of nothing."""
    context = browser.new_context(**settings)
    watched = Watched(context)
    watched.page.goto(path.as_uri())
    yield watched.page
    watched.page.screenshot(path=artifact(picture), full_page=True)
    context.close()
    assert watched.complaints == []
    assert [url for url in watched.requests if not url.startswith(("file:", "data:"))] == []
