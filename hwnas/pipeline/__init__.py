"""The whole job as one story: profile → train → search → export → verify → report.

The table comes first because it is cheap and says at once whether the budgets can be met. A stage leaves its
artefacts in the run's folder and a row in run.db that says what it was made from; it is skipped while both
stand, and refused, with the difference spelled out, when they were made from something else.

`job` holds the run and makes its stages in order, `stages` names them, each of them is one file, `entries`
are what is known of a model, `folder` is where all of it lies.
"""

from hwnas.pipeline.entries import check_data, costs_of, model_folder, read_entry
from hwnas.pipeline.export import export_model
from hwnas.pipeline.folder import check_unlocked, locked, run_folder
from hwnas.pipeline.job import Display, Run, load_run, no_display, open_run, run, run_for_device
from hwnas.pipeline.profile import own_device
from hwnas.pipeline.search import more_evaluations
from hwnas.pipeline.stages import STAGES
from hwnas.pipeline.verify import amend, judge_entry, measure_entries

__all__ = [
    "STAGES",
    "Display",
    "Run",
    "amend",
    "check_data",
    "check_unlocked",
    "costs_of",
    "export_model",
    "judge_entry",
    "load_run",
    "locked",
    "measure_entries",
    "model_folder",
    "more_evaluations",
    "no_display",
    "open_run",
    "own_device",
    "read_entry",
    "run",
    "run_folder",
    "run_for_device",
]
