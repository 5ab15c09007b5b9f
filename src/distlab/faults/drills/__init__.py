"""Recovery drills: break a real run, let the framework's own engine bring it back, report what that cost.

    distlab drill torchrun              # a rank is killed; the agent starts all ranks again
    distlab drill torchrun --nodes 2    # a whole node is; training goes on without it
    distlab drill ray                   # Ray replaces the worker; --elastic: goes on with fewer
    distlab drill horovod               # Horovod goes on with the ranks that are left

`report` says what is measured, `rank` is what each rank runs, and each engine has a file.
"""
