"""Fuzz the readers of shards, guided by coverage, and print how much was tried.

Needs the extra `fuzz` (atheris). Every target runs in a separate process; an input that breaks
one is kept next to the corpus and the exit status is 1.

Example: python tools/fuzz_shards.py --seconds 60
"""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

HERE = Path(__file__).parent
MEMORY_MB = 2048
SLOWEST_S = 20
DONE = re.compile(r"Done (\d+) runs in (\d+) second")
COVERED = re.compile(r"cov: (\d+) ft: (\d+)")


def run_here(target: str, arguments: list[str]) -> None:
    """Fuzz one target in this process, which libFuzzer ends."""
    import atheris

    sys.path.insert(0, str(HERE))
    with atheris.instrument_imports(include=["p2pkit.shards", "p2pkit.files"]):  # pyright: ignore[reportAttributeAccessIssue]
        import fuzz_targets

    fuzz_targets.bound_memory()
    atheris.Setup([sys.argv[0], *arguments], fuzz_targets.TARGETS[target])
    atheris.Fuzz()


def fuzz(target: str, seconds: int, corpus: Path) -> tuple[str, bool]:
    """Fuzz one target in a new process; return a line with the result, and whether it passed."""
    sys.path.insert(0, str(HERE))
    from fuzz_targets import seeds

    folder = corpus / target
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(target)):
        (folder / f"seed-{number}").write_bytes(seed)
    limits = [f"-max_total_time={seconds}", f"-rss_limit_mb={MEMORY_MB}", f"-timeout={SLOWEST_S}"]
    command = [sys.executable, __file__, "--here", target, "--", *limits]
    command += [f"-artifact_prefix={corpus}/{target}-", str(folder)]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    runs, covered = DONE.search(done.stderr), COVERED.findall(done.stderr)
    if done.returncode != 0 or runs is None:
        return f"{target:<10} broke (exit {done.returncode}):\n{done.stderr[-4000:]}", False
    counted = f"{int(runs[1]):>12,} runs in {time.monotonic() - began:5.0f} s"
    edges = f"{covered[-1][0]:>6} edges" if covered else ""
    return f"{target:<10}{counted}{edges}, nothing found", True


@click.command()
@click.option("--seconds", default=60, show_default=True, type=click.IntRange(1), help="Each.")
@click.option("--corpus", type=click.Path(path_type=Path), help="Folder kept between runs.")
@click.option("--target", "targets", multiple=True, help="Only these targets.")
@click.option("--here", hidden=True)
@click.argument("arguments", nargs=-1)
def main(
    seconds: int,
    corpus: Path | None,
    targets: tuple[str, ...],
    here: str | None,
    arguments: tuple[str, ...],
) -> None:
    """Fuzz every target for some seconds."""
    if here is not None:
        run_here(here, list(arguments))
        return
    sys.path.insert(0, str(HERE))
    from fuzz_targets import TARGETS

    corpus = corpus or Path(tempfile.mkdtemp(prefix="p2pkit-corpus-"))
    held = True
    for target in targets or TARGETS:
        line, good = fuzz(target, seconds, corpus)
        held = held and good
        click.echo(line)
    click.echo(f"corpus: {corpus}")
    sys.exit(not held)


if __name__ == "__main__":
    main()
