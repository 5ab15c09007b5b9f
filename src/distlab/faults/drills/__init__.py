"""Drills: break a real run, see that it is noticed, bring it back, and report what that cost.

Each runbook of the book's page *Training runbooks* is practised by one of them.

Recovery through an engine of its own: a rank or a node is killed.

    distlab drill torchrun              # a rank is killed; the agent starts all ranks again
    distlab drill torchrun --nodes 2    # a whole node is; training goes on without it
    distlab drill ray                   # Ray replaces the worker; --elastic: goes on with fewer
    distlab drill horovod               # Horovod goes on with the ranks that are left

What no exit code tells:

    distlab drill hang                  # a rank misses a collective; the flight recorder names it
    distlab drill checkpoint            # the newest checkpoint is damaged; the one before is taken
    distlab drill storage               # storage falls silent, and answers again; --forever: it does not
    distlab drill cost                  # a run costs more than its budget; Prometheus' rules fire
    distlab drill injection             # faults on purpose: their limits, and that nothing of them is left
    distlab drill leftovers runs/demo   # no drill: what injected faults have left behind, anywhere

`report` says what is measured, `rank` is what each rank of an engine runs, `alone` what needs one rank,
`pair` what needs two.
"""
