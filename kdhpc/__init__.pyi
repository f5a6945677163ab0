from kdhpc import errors as errors
from kdhpc.api.ensemble import load as load
from kdhpc.api.graphs import Graph as Graph
from kdhpc.api.graphs import dml as dml
from kdhpc.api.graphs import independent as independent
from kdhpc.api.graphs import load_graph as load_graph
from kdhpc.api.searching import Study as Study
from kdhpc.api.searching import search as search
from kdhpc.api.training import Run as Run
from kdhpc.api.training import train as train
from kdhpc.graph.catalogue import DesignEntry as DesignEntry
from kdhpc.graph.catalogue import GateEntry as GateEntry
from kdhpc.graph.catalogue import LossEntry as LossEntry
from kdhpc.inference.ensemble import Ensemble as Ensemble

__version__: str
__all__ = [
    "DesignEntry",
    "Ensemble",
    "GateEntry",
    "Graph",
    "LossEntry",
    "Run",
    "Study",
    "__version__",
    "dml",
    "errors",
    "independent",
    "load",
    "load_graph",
    "search",
    "train",
]
