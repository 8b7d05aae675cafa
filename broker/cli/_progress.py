"""Progress on a terminal: a bar for pictures or studies, quiet where output goes to a file or a program."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


@contextmanager
def pictures(title: str, total: int, console: Console, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Show objects and bytes while they come; return the function that is told (objects begun, bytes received)."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[size]}"),
        TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task(title, total=total, size="")

        def told(objects: int, size: int) -> None:
            bar.update(task, completed=objects, size=decimal(size))

        yield told


@contextmanager
def studies(
    title: str, console: Console, *, quiet: bool = False, what: str = "studies",
) -> Iterator[Callable[[int, int, int, int], None]]:
    """Show studies (or `what` they are) and bytes, with the time left by the bytes; return the function that is told

    (studies done, studies in all, bytes done, bytes in all).
    """
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[studies]}"), TextColumn("{task.fields[size]}"),
        TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task(title, total=None, studies="", size="")

        def told(done: int, total: int, size: int, total_size: int) -> None:
            bar.update(task, completed=size, total=total_size, studies=f"{done}/{total} {what}",
                       size=f"{decimal(size)}/{decimal(total_size)}")

        yield told


@contextmanager
def transfer(title: str, console: Console, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Show bytes, with the time left; return the function that is told (bytes done, bytes in all)."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def counting(title: str, console: Console, *, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Show how far something is whose end is not known; return the function that is told it in words."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.fields[far]}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task(title, total=None, far="")
        yield lambda far: bar.update(task, far=far)
