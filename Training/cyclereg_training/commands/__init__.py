"""Verbs of ``cyclereg-train``, a module each, with ``add_arguments(parser)`` and ``main(arguments) -> int``.

The first line of the module's text is its help: "``cyclereg-train VERB``: what it does.".
"""
