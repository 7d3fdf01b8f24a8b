"""The suite's results as Markdown and as a picture."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from html import escape
from typing import Any, NamedTuple

from tests.benchmarks.contestants import (
    BATCH,
    BY_HAND,
    CEILING,
    DASK_BAG,
    DATAFRAME,
    DISTRIBUTED,
    DUCKDB,
    FLEET,
    GNU,
    MRJOB,
    PLAIN,
    RDD,
    SUM,
)


class Target(NamedTuple):
    """A target: ``ours`` takes at most ``factor`` times as long as ``theirs``."""

    workload: str
    ours: str
    theirs: str
    factor: float


TARGETS = [
    Target("wordcount", PLAIN, BY_HAND, 1.9),
    Target("wordcount", PLAIN, RDD, 1 / 2),
    Target("wordcount", PLAIN, MRJOB, 1 / 10),
    Target("wordcount", SUM, BY_HAND, 1.25),
    Target("wordcount", SUM, RDD, 1 / 3),
    Target("wordcount", SUM, DISTRIBUTED, 1 / 3),
    Target("wordcount", BATCH, DUCKDB, 1.5),
    Target("sort", PLAIN, GNU, 1 / 2),
    Target("sort", PLAIN, DATAFRAME, 1 / 4),
    Target("grep", PLAIN, DISTRIBUTED, 1),
    Target("grep", PLAIN, RDD, 1 / 4),
    Target("urls", PLAIN, DISTRIBUTED, 1),
    Target("urls", PLAIN, RDD, 1 / 3),
    Target("index", PLAIN, RDD, 1 / 2),
    Target("index", PLAIN, DASK_BAG, 1 / 5),
    *(Target(name, FLEET, PLAIN, 1.5) for name in ("wordcount", "sort", "grep", "urls", "index")),
]

Result = dict[str, Any]
"""Results of a workload: ``size`` in bytes, and ``runs``, each contestant's rounds, None if it sat one out."""


def ratio(result: Result, one: str, other: str) -> float | None:
    """Divide the seconds of ``one`` by those of ``other`` in each round in which both ran; return the median."""
    rounds = zip(result["runs"].get(one, ()), result["runs"].get(other, ()), strict=False)
    ratios = [a["seconds"] / b["seconds"] for a, b in rounds if a and b]
    return statistics.median(ratios) if ratios else None


def median(result: Result, name: str, what: str) -> float:
    found: float = statistics.median(run[what] for run in result["runs"][name] if run)
    return found


def markdown(results: dict[str, Result], about: str) -> str:
    """Return all tables, ratios first."""
    text = [about, "\n## Must hold\n", *_targets(results)]
    for name, result in results.items():
        bases = [who for who in result["runs"] if who in (PLAIN, SUM, BATCH)]
        text += [
            f"\n## {name}, {result['size'] / 1e6:,.0f} MB\n",
            "| | " + "".join(f"by {base} | " for base in bases) + "seconds | least | most | CPU s | peak MB | runs |",
            "|---|" + "---|" * (len(bases) + 6),
        ]
        for who in sorted(result["runs"], key=lambda who: median(result, who, "seconds")):
            times = [run["seconds"] for run in result["runs"][who] if run]
            ratios = "".join(f"{_times(ratio(result, who, base))} | " for base in bases)
            text.append(
                f"| {who} | {ratios}{statistics.median(times):.2f} | {min(times):.2f} | {max(times):.2f} | "
                f"{median(result, who, 'cpu'):.1f}{_endpoint(result, who)} | "
                f"{_megabytes(median(result, who, 'peak'))} | {len(times)} |"
            )
        text += ["", *(f"Left out: {why}" for why in result["left_out"])]
    return "\n".join(text) + "\n"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} x"


def _megabytes(peak: float) -> str:
    return f"{peak / 1e6:,.0f}" if peak else "too quick to see"


def _endpoint(result: Result, who: str) -> str:
    return f", endpoint {median(result, who, 'endpoint_cpu'):.1f}" if who == FLEET else ""


def _targets(results: dict[str, Result]) -> Iterable[str]:
    yield "| workload | who | by whom | at most | measured | holds |\n|---|---|---|---|---|---|"
    for workload, ours, theirs, factor in TARGETS:
        value = ratio(results[workload], ours, theirs) if workload in results else None
        if value is not None:
            yield (
                f"| {workload} | {ours} | {theirs} | {factor:.2f} x | {value:.2f} x | "
                f"{'yes' if value <= factor else 'no'} |"
            )
    for name, result in results.items():
        if CEILING in result["runs"]:
            most, peak = result["ceiling"] + 300e6, median(result, CEILING, "peak")
            yield (
                f"| {name} | {CEILING} | peak memory; the input is {result['size'] / result['ceiling']:.1f} x all "
                f"workers' --memory | {most / 1e6:,.0f} MB | {peak / 1e6:,.0f} MB | "
                f"{'yes' if peak <= most else 'no'} |"
            )


def picture(results: dict[str, Result]) -> str:
    """Draw an SVG: for each workload, each contestant's time divided by the plain class's, on a logarithmic scale."""
    left, wide, step = 260, 460, 18
    found = [
        (name, [(value, who) for who in result["runs"] if (value := ratio(result, who, PLAIN)) is not None])
        for name, result in results.items()
    ]
    values = [value for _, bars in found for value, _ in bars]
    low, high = math.log10(min([0.5, *values])), math.log10(max([2.0, *values]))

    def at(value: float) -> float:
        return left + wide * (math.log10(value) - low) / (high - low)

    shapes, y = [], 40
    for name, bars in found:
        shapes.append(f'<text x="8" y="{y + 13}" font-weight="bold">{escape(name)}</text>')
        y += step + 4
        for value, who in sorted(bars):
            begin, end = sorted((at(1), at(value)))
            color = "#2a6f97" if who.startswith("mrcelery") else "#b8b8b8"
            shapes += [
                f'<text x="{left - 6}" y="{y + 12}" text-anchor="end">{escape(who)}</text>',
                f'<rect x="{begin:.1f}" y="{y + 2}" width="{max(1.5, end - begin):.1f}" height="12" fill="{color}"/>',
                f'<text x="{end + 5:.1f}" y="{y + 12}">{value:.2f}</text>',
            ]
            y += step
        y += 10
    title = "Time by that of mrcelery's plain class, logarithmic: to the right is slower"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + wide + 70}" height="{y}" font-family="sans-serif" '
            'font-size="12">',
            '<rect width="100%" height="100%" fill="white"/>',
            f'<text x="8" y="20" font-size="14">{escape(title)}</text>',
            f'<line x1="{at(1):.1f}" x2="{at(1):.1f}" y1="30" y2="{y}" stroke="#888"/>',
            *shapes,
            "</svg>\n",
        ]
    )
