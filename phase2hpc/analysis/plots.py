"""Plots of a report as SVG that takes its colours and font from the page it stands in.

matplotlib draws in marker colours, which are replaced by CSS variables, so that one plot fits a
light and a dark page. Crowded points are drawn as an image inside the SVG.
"""

from __future__ import annotations

import io
import logging
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from phase2hpc.analysis.error_analysis import LEVELS, Calibration, MeanError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = npt.NDArray[np.float64]
# Of the runs, in order; visible on white and on black.
SERIES = ("#2f7fd1", "#d97706", "#0d9488", "#a855c8", "#d1495b", "#7a8b1f")
# Colours that no plot has otherwise, and the CSS variables that stand for them.
_INK, _MUTED, _GRID = "#010203", "#020304", "#030405"
_VARIABLES = {_INK: "var(--ink)", _MUTED: "var(--muted)", _GRID: "var(--rule)"}
# More points than this are drawn as density.
MAX_POINTS = 1500
# Of the image of points, per inch of the plot.
_DPI = 220
_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9,
    # No common factor of an axis beside its end, where it is cut off.
    "axes.formatter.limits": (-12, 12),
    "axes.formatter.useoffset": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "text.color": _INK,
    "lines.linewidth": 1.4,
}


@dataclass(frozen=True)
class Curve:
    """Values over the epochs of one run, and the epoch of its best weights."""

    epochs: Sequence[int]
    values: Sequence[float | None]
    best: int | None
    color: str


def learning_curves(curves: Sequence[Curve], label: str, *, log: bool) -> str:
    """Values over epochs, one line a run, a dot at its best epoch."""
    with _axes(3.3, 2.3) as (figure, axes):
        for curve in curves:
            values = np.array([np.nan if v is None else v for v in curve.values], dtype=float)
            marker = "o" if len(values) == 1 else ""
            axes.plot(curve.epochs, values, color=curve.color, marker=marker, markersize=3)
            if curve.best is not None and curve.best in curve.epochs:
                at = list(curve.epochs).index(curve.best)
                axes.plot([curve.best], [values[at]], "o", color=curve.color, markersize=4.5)
        shown = [v for curve in curves for v in curve.values if v is not None]
        if log and shown and min(shown) > 0:
            axes.set_yscale("log")
            _plain_log_ticks(axes)
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(_integer_ticks())
        return _svg(figure)


def parity(
    target: Array,
    prediction: Array,
    limits: tuple[float, float],
    color: str,
    linear_width: float | None = None,
) -> str:
    """Prediction against label with the line of equality; density where points are many.

    linear_width: of axes in asinh, which are linear below it and logarithmic above; None: linear.
    """
    with _axes(3.0, 2.9) as (figure, axes):
        if linear_width is not None:
            axes.set_xscale("asinh", linear_width=linear_width)
            axes.set_yscale("asinh", linear_width=linear_width)
        axes.plot(limits, limits, color=_MUTED, linewidth=0.9)
        if len(target) > MAX_POINTS and linear_width is None:
            axes.hexbin(
                target, prediction, gridsize=55, extent=(*limits, *limits), bins="log", mincnt=1,
                cmap=_ramp(color), linewidths=0.1, rasterized=True,
            )  # fmt: skip
        else:
            size, alpha = (9, 0.55) if len(target) > 150 else (14, 0.75)
            alpha = min(alpha, MAX_POINTS / len(target))
            axes.scatter(
                target, prediction, s=size, color=color, alpha=alpha, linewidths=0,
                rasterized=len(target) > 100,
            )  # fmt: skip
        axes.set(xlim=limits, ylim=limits, aspect="equal", xlabel="label", ylabel="prediction")
        _same_ticks(axes, linear_width)
        return _svg(figure)


def parity_limits(
    values: Sequence[Array], linear_width: float | None = None
) -> tuple[float, float]:
    """Common limits of both axes for labels and predictions, with a margin."""
    joined = np.concatenate(list(values))
    if linear_width is not None:
        joined = np.arcsinh(joined / linear_width)
    low, high = float(joined.min()), float(joined.max())
    margin = 0.04 * (high - low) or 0.04 * abs(high) or 1.0
    limits = np.array([low - margin, high + margin])
    if linear_width is not None:
        limits = linear_width * np.sinh(limits)
    return float(limits[0]), float(limits[1])


def errors_by_group(series: Sequence[tuple[Mapping[str, MeanError], str]], label: str) -> str:
    """MAE with its standard error by group, one series a run."""
    groups = list(dict.fromkeys(group for found, _ in series for group in found))
    groups.sort(key=lambda group: float(re.split("[-+]", group)[0]))
    with _axes(3.3, 2.3) as (figure, axes):
        for number, (found, color) in enumerate(series):
            shift = 0.5 * (number - (len(series) - 1) / 2) / max(3, len(series))
            places = [i + shift for i, group in enumerate(groups) if group in found]
            shown = [found[group] for group in groups if group in found]
            axes.errorbar(
                places, [m.mae for m in shown], yerr=[m.se or 0.0 for m in shown], color=color,
                fmt="o", markersize=4, elinewidth=1.1, capsize=2,
            )  # fmt: skip
        axes.set_xticks(range(len(groups)), groups, fontsize=7.5 if len(groups) > 5 else 9)
        axes.set_xlim(-0.6, len(groups) - 0.4)
        axes.set_ylim(bottom=0)
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("atoms in the cell")
        axes.set_ylabel(label)
        return _svg(figure)


def coverage(series: Sequence[tuple[Calibration, str]]) -> str:
    """Observed against nominal coverage of central intervals."""
    with _axes(3.0, 2.5) as (figure, axes):
        axes.plot([0, 1], [0, 1], color=_MUTED, linewidth=0.9)
        for found, color in series:
            axes.plot([0, *LEVELS, 1], [0, *found.observed, 1], color=color)
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.set_xlabel("nominal coverage")
        axes.set_ylabel("observed coverage")
        return _svg(figure)


def error_against_sigma(series: Sequence[tuple[Calibration, str]], unit: str) -> str:
    """RMSE against sigma in bins of equal numbers of crystals, on logarithmic axes."""
    with _axes(3.0, 2.5) as (figure, axes):
        values = [v for found, _ in series for v in (*found.sigma, *found.rmse) if v > 0]
        limits = (0.8 * min(values), 1.25 * max(values))
        axes.plot(limits, limits, color=_MUTED, linewidth=0.9)
        for found, color in series:
            axes.plot(found.sigma, found.rmse, "o-", color=color, markersize=4)
        axes.set(xscale="log", yscale="log", xlim=limits, ylim=limits, aspect="equal")
        _plain_log_ticks(axes)
        suffix = f" ({unit})" if unit else ""
        axes.set_xlabel(f"sigma{suffix}")
        axes.set_ylabel(f"RMSE{suffix}")
        return _svg(figure)


class _axes:
    """Context with a figure and its axes in the style of the report, closed at the end."""

    def __init__(self, width: float, height: float) -> None:
        self.size = (width, height)

    def __enter__(self) -> tuple[Figure, Axes]:
        # Its messages, about caches and fonts, are none of a report's reader.
        logging.getLogger("matplotlib").setLevel(logging.ERROR)
        import matplotlib as mpl
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        self.style = mpl.rc_context(_STYLE)
        self.style.__enter__()
        # Not by pyplot, which has global state and may want a display.
        figure = Figure(figsize=self.size, dpi=_DPI)
        # Fixed, since a layout engine takes as long as the plot; ``_svg`` makes more room on the
        # left for long labels.
        width, height = self.size
        figure.subplots_adjust(0.62 / width, 0.48 / height, 1 - 0.12 / width, 1 - 0.1 / height)
        FigureCanvasSVG(figure)
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        return figure, axes

    def __exit__(self, *raised: object) -> None:
        self.style.__exit__(None, None, None)


def _same_ticks(axes: Axes, linear_width: float | None) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    for axis in (axes.xaxis, axes.yaxis):
        if linear_width is None:
            axis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
            continue
        first = math.ceil(math.log10(linear_width))
        powers = [10.0**k for k in range(first, first + 8)]
        axis.set_major_locator(FixedLocator([*(-p for p in powers), 0.0, *powers]))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _plain_log_ticks(axes: Axes) -> None:
    """Ticks as 0.2 and 50 in place of powers, which need mathematical text."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axis, scale, (low, high) in (
        (axes.xaxis, axes.get_xscale(), axes.get_xlim()),
        (axes.yaxis, axes.get_yscale(), axes.get_ylim()),
    ):
        if scale != "log":
            continue
        # Over more than two powers of ten, labels between these would overlap.
        subs = (1.0, 2.0, 5.0) if high < 100 * low else (1.0,)
        axis.set_major_locator(LogLocator(subs=subs, numticks=6))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def _integer_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=6, integer=True)


def _ramp(color: str) -> Any:
    """A colour map from nearly transparent to opaque."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgba

    return LinearSegmentedColormap.from_list("ramp", [to_rgba(color, 0.35), to_rgba(color)])


def _svg(figure: Figure) -> str:
    """The figure as an <svg> element for a page."""
    from matplotlib import rc_context

    text = io.StringIO()
    _make_room_on_the_left(figure)
    # The ids that are left depend on content and this salt only.
    with rc_context({"svg.hashsalt": "phase2hpc"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    # A style here would hold for the whole page.
    svg = re.sub(r"<(metadata|style).*?</\1>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img">', svg)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: var(--font)", svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, variable)
    # Two decimals of a coordinate are enough; the text between tags stays as it is.
    svg = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag[0]), svg)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r">\s+<", "><", re.sub(r"\s*\n\s*", " ", svg)).strip()
    return _with_own_ids(svg)


def _make_room_on_the_left(figure: Figure) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    (axes,) = figure.axes
    canvas = FigureCanvasAgg(figure)
    box = axes.yaxis.get_tightbbox(canvas.get_renderer())  # type: ignore[no-untyped-call]
    if box is not None:
        missing = 0.04 - box.x0 / figure.dpi
        if missing > 0:
            width = figure.get_size_inches()[0]
            figure.subplots_adjust(left=figure.subplotpars.left + missing / width)


def _with_own_ids(svg: str) -> str:
    """The ids that something refers to, made unique to the plot; no others."""
    used = set(re.findall(r"(?:href=\"|url\()#([^\")]+)", svg))
    prefix = f"p{zlib.crc32(svg.encode()):08x}-"
    svg = re.sub(r' id="([^"]*)"', lambda m: f' id="{prefix}{m[1]}"' if m[1] in used else "", svg)
    return re.sub(r"(href=\"|url\()#", rf"\g<1>#{prefix}", svg)
