"""One more run of ours, recorded: where the time of a request goes."""

from __future__ import annotations

import contextlib
import pstats
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.benchmark.contestants import PROXY_UID
from scripts.benchmark.load import check_path, requests
from scripts.benchmark.measures import OURS
from scripts.benchmark.stage import WORK, Stage, stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from scripts.benchmark.options import Options


def profile(options: Options, console: Console) -> None:
    """Record the proxy during the request runs of one direction, into the output directory."""
    options.output.mkdir(parents=True, exist_ok=True)
    if sampler := shutil.which("py-spy"):
        _by_sampling(sampler, options, console)
    else:
        _by_tracing(options, console)


def _by_sampling(sampler: str, options: Options, console: Console) -> None:
    """From outside, by py-spy: a flame graph, C functions too; little is slowed down."""
    target = options.output / "profile.svg"
    with stage(OURS, options.directions[0], options.workers) as place:
        check_path(place)
        with _recording([sampler, "record", "--native", "--subprocesses", "-o", str(target)], place):
            list(requests(place, options.seconds, options.idle))
    console.print(f"Profile of the requests: {target}")


@contextlib.contextmanager
def _recording(argv: list[str], place: Stage) -> Iterator[None]:
    assert place.proxy is not None
    recorder = subprocess.Popen(
        [*argv, "--pid", str(place.proxy.pid)], stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield
    finally:
        recorder.send_signal(signal.SIGINT)  # it writes its file then
        recorder.wait(30)


def _by_tracing(options: Options, console: Console) -> None:
    """With cProfile, which counts every call and makes calls dear: read the order, not the times. Workers beside the first are not seen."""
    recorded = WORK / "recorded"
    recorded.mkdir(exist_ok=True)
    shutil.chown(recorded, PROXY_UID, PROXY_UID)  # written when the proxy ends, long after it gave root up
    file = recorded / "profile.out"
    python = str(WORK / "ours/bin/python")
    with stage(
        OURS, options.directions[0], options.workers, wrapper=(python, "-m", "cProfile", "-o", str(file))
    ) as place:
        check_path(place)
        list(requests(place, options.seconds, options.idle))
    target = options.output / "profile.out"
    shutil.copyfile(file, target)
    with (options.output / "profile.txt").open("w") as text:
        pstats.Stats(str(target), stream=text).sort_stats("tottime").print_stats(40)
    console.print(Path(text.name).read_text(), markup=False)
    console.print(f"Profile of the requests: {target} (for pstats or snakeviz) and {text.name}")
