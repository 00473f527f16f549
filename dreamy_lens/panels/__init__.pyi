from .attribution import AttributionPanel as AttributionPanel
from .browser import FeatureBrowser as FeatureBrowser
from .cells import show as show
from .dream import DreamPanel as DreamPanel
from .runs import RunsPanel as RunsPanel
