"""What runs on the far side: the zygote and everything that turns a fork of it into a locked box with a program in it.

This package imports the standard library only and nothing of ``retool_env``, because the zygote loads it by itself,
under any interpreter that the user named, before it isolates itself. The one module that both sides import is
``wire``.
"""
