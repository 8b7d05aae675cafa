import re
from pathlib import Path

import pytest
from pydantic import BaseModel

import broker
from broker.config.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def settings_keys(model: type[BaseModel] = Settings, before: str = "") -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        nested = isinstance(kind, type) and issubclass(kind, BaseModel)
        keys += settings_keys(kind, f"{before}{name}.") if nested else [before + name]  # type: ignore[arg-type]  # a model class
    return keys


@pytest.mark.parametrize("key", settings_keys())
def test_every_setting_is_documented(key: str) -> None:
    assert f"| `{key}` |" in (ROOT / "docs/settings.md").read_text("utf-8")


def test_the_newest_release_of_the_changelog_is_this_version() -> None:
    first = re.search(r"^## (\S+)(?: \(unreleased\))?$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert first is not None
    assert first.group(1) == broker.__version__


@pytest.mark.parametrize("page", sorted(p.relative_to(ROOT).as_posix() for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]))
def test_links_between_pages_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert ((ROOT / page).parent / target).exists(), target


def test_the_index_of_helpers_names_each_of_them() -> None:
    folder = ROOT / "tests/helpers"
    named = set(re.findall(r"^\| `(\w+\.py)` \|", (folder / "README.md").read_text("utf-8"), re.MULTILINE))
    assert named == {file.name for file in folder.glob("*.py")}
