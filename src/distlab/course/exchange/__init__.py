"""The exchange: assignments go out, submissions come in, feedback goes back, all over HTTP.

`service` keeps the files (`store`) and answers (`handlers`); `plugin` makes nbgrader's own commands and buttons
speak to it through `client`; `bundle` is the form in which a folder travels.
"""
