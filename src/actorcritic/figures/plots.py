"""Pictures: figures of training, of comparisons and of what was learned, and their files.

Every function here returns a Matplotlib figure that `save` writes; none opens a window or keeps a
figure anywhere. What a panel of curves shows is attached to its axes (`panel_of`) by the code that
draws it, so that a page can draw it again. Matplotlib is imported where it is used: it would slow
every start.
"""

from actorcritic.figures.curves import (
    STEPS,
    UPDATES,
    diagnostics,
    evaluated,
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
from actorcritic.figures.recorded import recorded
from actorcritic.figures.scores import (
    Scores,
    score_intervals,
    scores_over_setting,
    sweep_scatter,
)
from actorcritic.figures.style import (
    COLOURS,
    FAINT,
    GRID,
    INK,
    NARROW,
    PAPER,
    RULE,
    WIDTH,
    Panel,
    Series,
    View,
    colours,
    on_scale,
    overlay,
    panel_of,
    short,
)

__all__ = [
    "COLOURS",
    "FAINT",
    "GRID",
    "INK",
    "NARROW",
    "PAPER",
    "RULE",
    "STEPS",
    "UPDATES",
    "WALL",
    "WIDTH",
    "Field",
    "Map",
    "Panel",
    "Scores",
    "Series",
    "View",
    "action_against_state",
    "colours",
    "diagnostics",
    "evaluated",
    "learning_curve",
    "lines",
    "on_scale",
    "overlay",
    "panel_of",
    "profile",
    "recorded",
    "returns_and_lengths",
    "save",
    "score_intervals",
    "scores_over_setting",
    "short",
    "svg",
    "sweep_scatter",
    "value_animation",
    "value_maps",
]
