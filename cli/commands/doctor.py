"""`p2pkit doctor`: the state of the set-up, and the installation of MinkowskiEngine."""

import json
from dataclasses import asdict

import click

from p2pkit.minkowski.doctor import INSTALL_ENGINE, Finding, examine, healthy, summary
from p2pkit.minkowski.install import Installed, install_minkowski


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of a table.")
@click.option(
    "--install",
    type=click.Choice(["minkowski"]),
    help="Build and install MinkowskiEngine; an existing wheel is reused.",
)
@click.option(
    "--cuda/--cpu",
    default=None,
    help="With --install: which variant. Default: CUDA if a GPU is found.",
)
@click.pass_context
def doctor(context: click.Context, as_json: bool, install: str | None, cuda: bool | None) -> None:
    """Show what is installed, what each part is for, and how to fix what is missing.

    Exits with 1 if a required part is missing or broken, or if --install could not
    install the wanted variant.

    Example: p2pkit doctor --install minkowski
    """
    if install is None and cuda is not None:
        raise click.UsageError("--cuda and --cpu select what --install builds; add --install")
    if install is not None:
        result = install_minkowski(cuda=cuda, report=lambda line: click.echo(line, err=True))
        click.echo(json.dumps(asdict(result)) if as_json else installed_line(result))
        context.exit(1 if result.problem else 0)
    findings = examine()
    if as_json:
        click.echo(json.dumps([finding.to_json() for finding in findings], indent=1))
    else:
        click.echo("\n".join([*table(findings), "", summary(findings)]))
    context.exit(0 if healthy(findings) else 1)


def installed_line(installed: Installed) -> str:
    """One line with the result of the installed engine's self-check, or with what replaces it."""
    result, problem = installed.result, installed.problem
    if result is None:
        return (
            f"MinkowskiEngine was not installed: {problem}. p2pkit uses engine=torch instead, "
            f"which needs no build; once this is fixed, `{INSTALL_ENGINE}` installs MinkowskiEngine"
        )
    variant = "CUDA" if result["built_with_cuda"] else "CPU"
    devices = " and ".join(result["errors"])
    return (
        f"MinkowskiEngine {result['version']} ({variant} build): its layers equal dense torch on "
        f"{devices}" + (f". It is not the CUDA build, because {problem}" if problem else "")
    )


def table(findings: list[Finding]) -> list[str]:
    """One row per part, then the reason and the command for parts that a command can fix."""
    rows = [("part", "status", "version", "what for", "detail")]
    for finding in findings:
        detail = "" if finding.command else finding.detail
        status = finding.status if finding.needed else f"{finding.status} (optional)"
        shown = "ok" if finding.status == "ok" else status
        rows.append((finding.name, shown, finding.version, finding.purpose, detail))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    for finding in findings:
        if finding.command:
            lines += ["", f"{finding.name}: {finding.detail}", f"    {finding.command}"]
    return lines
