"""The registry: built-in entries, plugins found by entry point, conflicts, and plugins that can't be used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TypeGuard

import pytest

from selfinstruct.errors import PluginError
from selfinstruct.plugins import GROUPS, Registry, installed_plugins
from tests.cli import ROOT


def is_text(entry: object) -> TypeGuard[str]:
    return isinstance(entry, str)


def registry() -> Registry[str]:
    return Registry("filter", {"short": "built in"}, is_text, "a text")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory on ``sys.path``, as ``pip install --target`` makes them."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "plugin_of_a_test.py").write_text("TEXT = 'from a plugin'\nNUMBER = 3\n")
    (tmp_path / "broken_plugin_of_a_test.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.delitem(sys.modules, "plugin_of_a_test", raising=False)
    return tmp_path


def install(site: Path, distribution: str, version: str, **targets: str) -> None:
    """Lay down the metadata of a distribution that offers filters."""
    folder = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    lines = [f"{name} = {target}" for name, target in targets.items()]
    (folder / "entry_points.txt").write_text("\n".join([f"[{GROUPS['filter']}]", *lines]) + "\n")


def test_without_plugins_there_are_the_built_in_entries() -> None:
    assert registry().names() == ("short",)
    assert registry().get("short") == "built in"
    assert registry().origin("short") == ""
    assert "long" not in registry()
    with pytest.raises(KeyError):
        registry().get("long")


def test_a_plugin_is_found_by_its_entry_point_with_its_version(site: Path) -> None:
    install(site, "some-filters", "1.2", long="plugin_of_a_test:TEXT")
    assert registry().names() == ("short", "long")
    assert "long" in registry()
    assert registry().get("long") == "from a plugin"
    assert registry().origin("long") == "some-filters 1.2"
    (plugin,) = installed_plugins("filter")
    assert (plugin.name, plugin.target, plugin.origin) == ("long", "plugin_of_a_test:TEXT", "some-filters 1.2")


def test_a_plugin_is_imported_only_when_it_is_asked_for(site: Path) -> None:
    install(site, "some-filters", "1.2", long="plugin_of_a_test:TEXT")
    entries = registry()
    assert "long" in entries
    assert entries.names() == ("short", "long")
    assert "plugin_of_a_test" not in sys.modules
    assert entries.get("long") is entries.get("long")
    assert "plugin_of_a_test" in sys.modules


def test_a_plugin_that_fails_to_import_affects_only_its_users(site: Path) -> None:
    install(site, "broken-filters", "0.3", long="broken_plugin_of_a_test:TEXT")
    assert registry().names() == ("short", "long")
    assert registry().get("short") == "built in"
    with pytest.raises(PluginError) as caught:
        registry().get("long")
    message = str(caught.value)
    assert "broken-filters 0.3" in message
    assert "ModuleNotFoundError: No module named 'a_package_that_is_not_there'" in message


def test_a_plugin_of_another_type_is_refused(site: Path) -> None:
    install(site, "some-filters", "1.2", long="plugin_of_a_test:NUMBER")
    with pytest.raises(PluginError, match=r"plugin_of_a_test:NUMBER of some-filters 1\.2 is not a text"):
        registry().get("long")


def test_two_distributions_with_one_name_are_both_named(site: Path) -> None:
    install(site, "first", "1.0", long="plugin_of_a_test:TEXT", short="plugin_of_a_test:TEXT")
    install(site, "second", "2.0", long="plugin_of_a_test:TEXT")
    entries = registry()
    assert entries.names() == ("short", "long")
    with pytest.raises(PluginError, match=r"'long' is offered by first 1\.0 and by second 2\.0: uninstall one of them"):
        entries.get("long")
    with pytest.raises(PluginError, match=r"'short' is offered by selfinstruct and by first 1\.0"):
        entries.get("short")


def test_doctor_reports_a_name_that_two_distributions_offer(site: Path) -> None:
    install(site, "first", "1.0", words="plugin_of_a_test:TEXT")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{site}"}
    code = "from selfinstruct.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "doctor", "--json"], env=environment, capture_output=True,
                          text=True, check=True)  # fmt: skip
    checks = [check for check in json.loads(done.stdout)["checks"] if check["name"] == "plugins"]
    assert [check["ok"] for check in checks] == [False, True]
    assert checks[0]["detail"] == "filter 'words' is offered by selfinstruct and by first 1.0"
    assert checks[0]["remedy"] == "uninstall one of them"
    assert checks[1]["detail"] == "first 1.0: filter words"
