"""The command line: one file per verb, imported when the verb is used.

Results go to stdout, everything else to stderr. Known errors end with one line and their own exit code; a
traceback is shown with ``EDGEDIFF_DEBUG=1`` alone.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import warnings
from typing import Any

import click

import edgediff
from edgediff.errors import EdgediffError

VERBS = {
    "run": "Draw a picture from a prompt.",
    "export": "Turn a checkpoint into a bundle.",
    "show": "Say what a bundle holds.",
    "verify": "Check a bundle's files, graphs and one pass of each.",
    "compare": "Draw the same pictures with several bundles, side by side.",
    "bench": "Measure a bundle here: time, memory, work and the machine's limits.",
    "pull": "Download a bundle or a model from the hub.",
    "list": "List the bundles and models in the hub's cache.",
    "rm": "Delete a bundle or a model from the hub's cache.",
    "devices": "List the devices that graphs can run on here.",
    "cache": "Say what edgediff keeps of compiled graphs, or delete it.",
    "doctor": "Check the installation and say how to repair it.",
}


class Lazy(click.Group):
    """A group whose verbs live in ``edgediff.cli.<verb>`` and are imported when asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"edgediff.cli.{cmd_name}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # before click turns it into status 1
            return _reader_gone()

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


def _hyphens(token: str) -> str:
    """Accept ``--num_inference_steps`` for ``--num-inference-steps``."""
    return token.replace("_", "-")


@click.group(
    cls=Lazy,
    context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": _hyphens},
    epilog='Example: edgediff run "a red circle on a white background" -o out.png',
)
@click.version_option(edgediff.__version__, prog_name="edgediff")
def group() -> None:
    """Diffusion models on the device: export a checkpoint to a bundle, run it, measure it. No PyTorch."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    warnings.showwarning = _show_warning
    as_json = "--json" in (sys.argv[1:] if arguments is None else arguments)
    try:
        status = group.main(arguments, prog_name="edgediff", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except EdgediffError as error:
        _fail(str(error), error.code, as_json)
        status = error.exit_code
    except click.ClickException as error:
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            error.show()
        else:
            _fail(_usage(error), "usage", as_json)
        status = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted; nothing was written.", "cancelled", as_json)
        status = 130
    except BrokenPipeError:
        status = _reader_gone()
    except Exception as error:
        if os.environ.get("EDGEDIFF_DEBUG"):
            raise
        _fail(
            f"unexpected {type(error).__name__}: {error}. Set EDGEDIFF_DEBUG=1 and report it.", "bug", as_json
        )
        status = 1
    sys.exit(status if isinstance(status, int) else 0)


def _reader_gone() -> int:
    """Whoever read stdout is gone; what was to be written to files has been."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _usage(error: click.ClickException) -> str:
    """Return click's complaint in one line, with the command that helps."""
    text = " ".join(error.format_message().split())
    context = error.ctx if isinstance(error, click.UsageError) else None
    return text if context is None else f"{text} Try '{context.command_path} --help'."


def _fail(message: str, code: str, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"error": {"code": code, "message": message}}))
    else:
        # One line, whatever a path or another library's message holds.
        line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
        click.echo(f"edgediff: {line}", err=True)
    if os.environ.get("EDGEDIFF_DEBUG"):
        import traceback

        traceback.print_exc()


def _show_warning(
    message: Warning | str,
    category: Any,
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    del category, filename, lineno, file, line
    click.echo(f"edgediff: warning: {message}", err=True)
