"""The one way a command gets its settings: a wrong one ends it with a single line and exit status 2."""

from pathlib import Path
from typing import Annotated

import typer

from broker.config import profile as profiles
from broker.config import settings as settings_file
from broker.config.profile import Profile
from broker.config.settings import ConfigError, Settings

ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", help="broker.toml; without it all defaults apply", dir_okay=False)]
AsJson = Annotated[bool, typer.Option("--json", help="machine-readable output")]


def load(config: Path | None) -> tuple[Settings, Profile]:
    """Return settings and profile of `config`, or end the program with one clear line."""
    try:
        settings = settings_file.load(config)
        return settings, profiles.load(settings.profile, config.resolve().parent if config else None)
    except ConfigError as error:
        typer.echo(f"broker: {error}", err=True)
        raise typer.Exit(2) from error
