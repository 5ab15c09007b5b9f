"""`distlab predict memory | step | layout | cnn | collective | goodput | presets`: the models at a terminal.

`training`, `layout`, `convnet` and `running` (with `simulated`) are the commands, `listing` lists what `presets` and
the hardware registry name. `options` turns the fields of their dataclasses into options and YAML keys (`values` their
values), `transformers` and `clusters` make of them what is trained, and on what. `show` prints tables and JSON and has
figures drawn, `why` and `derived` say which formula is behind a number, and whose. No command imports torch, numpy,
tyro or rich, and none matplotlib before a figure is asked for: an answer comes in a tenth of a second.
"""
