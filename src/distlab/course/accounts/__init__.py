"""Who may come in: sign-up, admission, passwords, and the pages for them.

Built on a table and an authenticator of its own rather than on jupyterhub-nativeauthenticator: of that, every
method would have to be replaced (no unique names, the Hub's own database session, hashing on the event loop,
replies that tell whether a name exists, pages that need `admin:users`), and nothing of it would be left but
its password list.
"""
