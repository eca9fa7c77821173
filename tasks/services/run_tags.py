"""The tags of MLflow runs by which code finds a run: all of them, and no other tag is searched.

The other tags of a run are for people. What code needs besides lies in the run's artifact
`nightloom.json`.
"""

NIGHT = "nightloom.night"  # a night's name, on the parent run of the night
KEY = "nightloom.key"  # what a stage or a study was made from, as a hash, on its own run
PARENT = "mlflow.parentRunId"  # MLflow's own: the parent of a stage, a trial or a judge
UPLOADED = "nightloom.uploaded"  # UPLOADED.MODEL: "KEY MANIFEST" of the files that lie in the run
# Names a run that is being made, lest it is made twice; taken away once it is there.
BEGUN = "nightloom.begun"
# Which process writes the run: HOST PID STARTED. A run whose process is gone has ended.
PROCESS = "nightloom.process"
