"""What the pages show is what the code does: every Python block of the README runs, every link leads somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from genlock.coordinator.settings import reference

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])


def test_the_loop_of_the_readme_runs(tmp_path: Path, redis_url: str) -> None:
    """A newcomer pastes the two Python blocks of the README one after the other."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len(blocks) == 2
    environment = {"GENLOCK_REDIS_URL": redis_url, "GENLOCK_STATE_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(blocks)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("committed 1 {")
    assert second.startswith("1 ")
    assert second.endswith(" False")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_configuration_reference_is_made_from_the_settings() -> None:
    assert (ROOT / "docs/configuration.md").read_text().endswith("\n\n" + reference())
