"""Load tests of a served model and what follows from them: behind `raycls bench` and benchmarks/serving.py.

load        one load against one URL, from a process of its own    images               what it sends
server      one server under every load of a plan                  usage, histograms    what it does meanwhile
stage       a model where it may be updated, broken and killed
replicas    one model served by several numbers of replicas        results, report      what comes of it
"""
