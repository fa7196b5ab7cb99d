"""What all commands share: the options that stand everywhere, and the flow file that fills in the others."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from dsync.cli.hidden import known_secrets
from dsync.cli.settings import Settings


def _take(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Note what was typed, before the command's name or after it."""
    name = parameter.name
    assert name is not None, "every option has a name"
    if ctx.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
        return
    settings = ctx.ensure_object(Settings)
    settings.given.add(name)
    if name == "verbosity":
        settings.verbosity += value
    else:
        setattr(settings, name, value)


def _show_version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from importlib.metadata import version

    from dsync.cli.answer import Answer, print_answer

    settings = ctx.ensure_object(Settings)
    settings.command = "version"
    number = version("dsync-coordinator")
    print_answer(Answer(summary=f"dsync {number}", result={"version": number}), settings)
    ctx.exit()


def everywhere() -> list[click.Parameter]:
    """The options that every command has, and `dsync` itself."""
    return [
        click.Option(
            ["-c", "--config", "config"],
            metavar="FLOW.YAML",
            type=click.Path(),
            expose_value=False,
            callback=_take,
            help="Read options from this file: the same names as the flags, which win; ${NAME} and ${NAME:-default}"
            " stand for environment variables.",
        ),
        click.Option(
            ["-v", "--verbose", "verbosity"],
            count=True,
            expose_value=False,
            callback=_take,
            help="Log more: every table, every retry, and the traceback of an error.",
        ),
        click.Option(
            ["-q", "--quiet", "is_quiet"],
            is_flag=True,
            expose_value=False,
            callback=_take,
            help="Log warnings only, and show no progress.",
        ),
        click.Option(
            ["--log-format"],
            type=click.Choice(["console", "json"]),
            default="console",
            show_default=True,
            expose_value=False,
            callback=_take,
            help="How log lines on stderr look: for people, or one JSON object a line.",
        ),
        click.Option(
            ["--log-file"],
            metavar="PATH",
            type=click.Path(dir_okay=False),
            expose_value=False,
            callback=_take,
            help="Add log lines to this file too, as JSON and whatever -q says; it is made for its owner alone.",
        ),
        click.Option(
            ["-y", "--yes"],
            is_flag=True,
            expose_value=False,
            callback=_take,
            help="Answer every question with yes; without a terminal a question is an error.",
        ),
        click.Option(
            ["--json", "json"],
            is_flag=True,
            expose_value=False,
            callback=_take,
            help="Print exactly one JSON object on stdout, also where the command fails.",
        ),
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_show_version,
            help="Print the version and exit.",
        ),
    ]


class DsyncCommand(click.Command):
    """A command with the options that stand everywhere; returns an `Answer`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(everywhere())

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        if parent is not None:
            # Before the line is parsed, so that a mistake in it is reported under the command's name.
            path = parent.command_path.split()[1:]
            parent.ensure_object(Settings).command = " ".join([*path, info_name or ""])
        return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        settings = ctx.ensure_object(Settings)
        if settings.config:
            from dsync.cli.flow_file import load_flow_file

            flow_file = load_flow_file(settings.config)
            flow_file.fill_settings(settings)
            for name in flow_file.given & set(ctx.params):
                if ctx.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
                    ctx.params[name] = getattr(flow_file, name)
        settings.hide(known_secrets(value for value in ctx.params.values() if isinstance(value, str)))
        self._open_log(ctx, settings)
        return super().invoke(ctx)

    def _open_log(self, ctx: click.Context, settings: Settings) -> None:
        if not settings.log_file:
            return
        from dsync.cli.log_file import LogFile

        try:
            settings.log = LogFile(settings.log_file)
        except OSError as exc:
            raise click.UsageError(
                f"--log-file {settings.log_file}: cannot be opened ({exc.strerror}); name another place", ctx
            ) from exc
        settings.record("info", "command_started", command=settings.command)
