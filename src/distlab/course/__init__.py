"""The site: book, hub, sandboxes, exchange, release and grading. Nothing else imports this wing."""
