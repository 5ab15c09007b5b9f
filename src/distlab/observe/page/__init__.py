"""The panels as a live page of our own, for whoever has no Grafana: in a learner's server, on a laptop, in the site."""
