"""SandboxFusion's HTTP protocol, both ways: a client that is a ``Sandbox``, and a server over any of ours.

``client``, ``courier``, ``terms`` and ``remote`` speak to a server; ``serve``, ``server``, ``service`` and ``notebook``
are one; ``wire`` is what both mean. Nothing is imported before it is needed.
"""
