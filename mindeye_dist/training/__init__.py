"""Training: batches -> losses -> optimizer steps, with validation and checkpoints.

In: the loader's batches, a model and the settings. Out: checkpoints and rows of metrics. Read
`trainer.py` first: it is the loop. `objective.py` holds the losses' schedule (BiMixCo, then
SoftCLIP), `losses.py` the pure losses, `schedule.py` the learning rate, `draws.py` the random
draws, `guards.py` the checks that stop a spoilt run, `backends/` torch and DeepSpeed.
"""
