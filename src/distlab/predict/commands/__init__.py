"""`distlab predict memory | collective | step | goodput`: the models of `distlab.predict` at a terminal.

`options` turns the fields of their dataclasses into options and YAML keys, `presets` names models and clusters,
`show` prints. No command imports torch, numpy or tyro: an answer comes in a tenth of a second.
"""
