"""Progress of a load on stderr, for those who have to wait. A quick load shows nothing."""

import sys
import time

import click

STAGES = {
    "self-test": "testing the GPU's kernels, once for this driver and version",
    "load": "loading the model",
    "compile": "compiling kernels, once for this machine",
}
_PATIENCE_S = 1.0


class Progress:
    """Called with (stage, done, total); a stage that takes over a second gets a bar on a terminal, else a line."""

    def __init__(self):
        self._start_s = {}  # stage: when it was first heard of
        self._on_terminal = sys.stderr.isatty()  # asked now: a bar puts itself in stderr's place
        self._shown = {}  # stage: its task in the bar
        self._bar = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_error) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        now_s = time.perf_counter()
        if now_s - self._start_s.setdefault(stage, now_s) < _PATIENCE_S or done == total and stage not in self._shown:
            return
        if self._on_terminal:
            self._show(stage, done, total)
        elif stage not in self._shown:
            self._shown[stage] = None
            click.echo(f"{STAGES.get(stage, stage)} ...", err=True)

    def _show(self, stage: str, done: int, total: int) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import Progress as Bar

            self._bar = Bar(console=Console(stderr=True), transient=True)
            self._bar.start()
        if stage not in self._shown:
            self._shown[stage] = self._bar.add_task(STAGES.get(stage, stage))
        self._bar.update(self._shown[stage], completed=done, total=total, refresh=True)
