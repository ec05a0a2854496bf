"""Backends: model and optimizer, in one process or spread over workers.

In: a model and its settings. Out: the interface of `protocol.py`, the file to read first, with the
same numbers within rounding for every backend. Training state goes in and out by parameter name
and whole, so a checkpoint does not depend on backend, ZeRO stage or number of workers.
"""
