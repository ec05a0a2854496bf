"""The folder of a run: journal, checkpoints and their copies, and what may be resumed or deleted.

In: settings, and the training state of every parameter, by name and whole. Out: files that a kill
at any moment leaves whole. `folder.py` names every file; `checkpoints.py` is the one to read first,
`checkpoint_writing.py` is the part that runs on every rank; `start.py` decides whether a run may
begin, resume or replace another.
"""
