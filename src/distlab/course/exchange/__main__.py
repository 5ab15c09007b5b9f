"""`python -m distlab.course.exchange`: see `service`."""

import tyro

from distlab.course.exchange.service import ServiceConfig, main

if __name__ == "__main__":
    main(tyro.cli(ServiceConfig, description="The exchange's HTTP service."))
