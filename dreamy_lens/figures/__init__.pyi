from .attribution import attribution_figure as attribution_figure
from .evolution import evolution_figure as evolution_figure
from .evolution import frontiers_figure as frontiers_figure
from .export import save as save
from .frontier import frontier_figure as frontier_figure
from .frontier import runs_figure as runs_figure
