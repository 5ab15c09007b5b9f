"""The best layout of a training for a model, a cluster and an objective, with the reason why each other one lost.

    found = search(Query(gpt, DGX_H100, gpus=16384, global_batch=3072))
    found.best[0].layout, found.best[0].step.step_s, found.best[0].headroom_bytes
    found.rejected                                  # how many lost, by reason
    why(found, layout).text                         # of any one
    nearest(found)                                  # the best with one field changed, and why each of them lost

`query` says what is looked for, `space` what there is, `bounds` what is left out and by which proof, `find` ranks,
`reasons` explains.
"""

from distlab.predict.search.find import Found, Ranked, Rejected, best_with, search
from distlab.predict.search.query import AXES, Objective, Query
from distlab.predict.search.reasons import Why, nearest, why, why_with

__all__ = [
    "AXES",
    "Found",
    "Objective",
    "Query",
    "Ranked",
    "Rejected",
    "Why",
    "best_with",
    "nearest",
    "search",
    "why",
    "why_with",
]
