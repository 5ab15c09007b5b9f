"""Quizzes: banks of questions in `assessments/`, from which each learner gets a notebook of their own.

`bank` reads a bank, `draw` makes one learner's questions of it (numbers, keys), `notebook` their cells, `own` is what
exchange and grader call, `lint` proves that a bank is right. Its formulas are those of `distlab.predict`, and the few
of `formulas`.
"""
