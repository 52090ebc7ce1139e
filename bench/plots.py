"""`python -m bench.plots [FILE]`: what a run measured, drawn and written down in `docs/performance.md`.

Reads the JSON of `python -m bench`, draws a picture for each row with a curve, and puts the figures between the marks
of the page. Nothing on the page between them is written by hand.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from bench import document
from bench.servers import ROOT

PAGE = ROOT / "docs" / "performance.md"
CURVES = {"minilm-curve": "MiniLM, sentences of 16 tokens", "resnet-curve": "ResNet-50, pictures of 224 x 224"}
_DOTS_PER_INCH = 80
_COLOURS = 64


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "bench.json"
    run = json.loads(file.read_text())
    for row, title in CURVES.items():
        points = [point for point in run["points"] if point["row"] == row]
        if points:
            picture = PAGE.with_name(f"performance-{row.removesuffix('-curve')}.png")
            draw(points, f"{title} ({run['date']})", picture)
            print(picture)
    PAGE.write_text(document.filled(PAGE.read_text(), document.figures(run)))
    print(PAGE)


def draw(points: Sequence[Mapping[str, Any]], title: str, picture: Path) -> None:
    """Latency over the load that is sent, and over the number of callers. A line for each server."""
    import matplotlib
    from PIL import Image

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (opened, closed) = pyplot.subplots(1, 2, figsize=(12, 5.4), layout="constrained")
    figure.suptitle(title)
    for number, server in enumerate(dict.fromkeys(point["server"] for point in points)):
        own = [point for point in points if point["server"] == server]
        for axes, loop, across in ((opened, "open", "offered"), (closed, "closed", "load")):
            line = [point for point in own if point["loop"] == loop]
            places = [point[across] for point in line]
            style = {"color": f"C{number}", "marker": "os^D"[number % 4], "markersize": 4}
            axes.plot(places, [point["p50"] for point in line], label=f"{server}, p50", **style)
            axes.plot(places, [point["p99"] for point in line], label=f"{server}, p99", linestyle="--", **style)
    opened.set(xlabel="sent requests per second (Poisson)", ylabel="latency in ms", yscale="log", title="Open loop")
    closed.set(xlabel="requests in flight", ylabel="latency in ms", yscale="log", xscale="log", title="Closed loop")
    ticks = sorted({point["load"] for point in points if point["loop"] == "closed"})
    closed.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    closed.minorticks_off()
    for axes in (opened, closed):
        axes.grid(alpha=0.3, which="both")
        for each in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            each("{x:g}")
        axes.tick_params(axis="y", which="minor", labelsize="x-small")
    figure.legend(*opened.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    drawn = BytesIO()
    figure.savefig(drawn, dpi=_DOTS_PER_INCH)
    pyplot.close(figure)
    Image.open(drawn).convert("RGB").quantize(_COLOURS).save(picture, optimize=True)


if __name__ == "__main__":
    main()
