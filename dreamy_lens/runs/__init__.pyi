from .dream import Dream as Dream
from .dreams import Dreams as Dreams
from .model_thread import ModelThread as ModelThread
from .spec import RunRecord as RunRecord
from .spec import RunSpec as RunSpec
from .start import new_run as new_run
from .start import side_by_side as side_by_side
from .worker import RunWorker as RunWorker
