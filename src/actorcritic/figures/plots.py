"""Pictures: figures of training, of comparisons and of what was learned, and their files.

Every function here returns a Matplotlib figure that `save` writes; none opens a window or keeps a
figure anywhere. What can be looked up in a panel is attached to its axes (`hover_of`) by the code
that draws it. Matplotlib is imported where it is used: it would slow every start.
"""

from actorcritic.figures.curves import (
    diagnostics,
    learning_curve,
    lines,
    profile,
    returns_and_lengths,
)
from actorcritic.figures.maps import (
    WALL,
    Field,
    Map,
    action_against_state,
    value_animation,
    value_maps,
)
from actorcritic.figures.pictures import save, svg
from actorcritic.figures.scores import Scores, score_intervals, sweep_scatter
from actorcritic.figures.style import (
    COLOURS,
    FAINT,
    GRID,
    INK,
    PAPER,
    RULE,
    Series,
    colours,
    hover_of,
    short,
)

__all__ = [
    "COLOURS",
    "FAINT",
    "GRID",
    "INK",
    "PAPER",
    "RULE",
    "WALL",
    "Field",
    "Map",
    "Scores",
    "Series",
    "action_against_state",
    "colours",
    "diagnostics",
    "hover_of",
    "learning_curve",
    "lines",
    "profile",
    "returns_and_lengths",
    "save",
    "score_intervals",
    "short",
    "svg",
    "sweep_scatter",
    "value_animation",
    "value_maps",
]
