"""What operators watch: samples of GPUs, metrics for Prometheus, cost, alerts, dashboards, profiles."""
