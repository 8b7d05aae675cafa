"""The command line: every command is there by its name, and none waits for what only others need."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from broker.cli.main import COMMANDS, cli

MODULES = {
    file.stem for file in Path("broker/cli").glob("[!_]*") if file.suffix == ".py" or (file / "__init__.py").is_file()}
NO_COMMANDS = {"main"}


def test_every_module_is_a_command() -> None:
    assert set(COMMANDS) == MODULES - NO_COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    shown = CliRunner().invoke(cli, [command, "--help"])
    assert shown.exit_code == 0
    assert f"broker {command}" in shown.output.replace("root ", "broker ")


def test_an_unknown_command_is_wrong_use() -> None:
    shown = CliRunner().invoke(cli, ["nonsense"])
    assert (shown.exit_code, "No such command 'nonsense'" in shown.output) == (2, True)


def test_the_version_of_this_release() -> None:
    done = CliRunner().invoke(cli, ["--version"])
    assert (done.exit_code, done.output.strip()) == (0, "0.2.0")


@pytest.mark.outside
def test_the_version_needs_none_of_the_parts() -> None:
    program = (
        "import sys\nfrom broker.cli.main import cli\ntry:\n    cli(['--version'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'sqlalchemy', 'spyne', 'pynetdicom', 'pydicom', 'lxml', 'pydantic', 'gunicorn'} & sys.modules.keys()))")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
