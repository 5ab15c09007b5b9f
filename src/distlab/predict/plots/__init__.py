"""Figures of predictions: first the data, in pure Python (so that a page has them, too), then matplotlib draws them.

    chart = memory_waterfall(training_memory(gpt, layout), accelerator("h100"))
    chart.bars, chart.limit                            # plain numbers
    figure(chart)                                      # inline, for a notebook
    save(chart, Path("memory.svg"))                    # .svg, .png or .pdf

`waterfall` has terms that add up, `timeline` a pipeline's schedule, `growth` scaling over GPUs, `placement` kernels
under a roofline, `exchange` collectives, `intervals` goodput, `overlap` convolutional networks, `ranking` the best
layouts. `drawing` imports matplotlib when it draws; how charts look is in `bars`, `curves` and `axes`.
"""
