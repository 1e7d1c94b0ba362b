"""Looking at data files before anything is trained or measured on them.

:func:`~retool_env.data.rows.read_rows` finds question and gold answer in the published shapes of data sets;
:func:`~retool_env.data.check.check_rows` says which golds cannot be graded, which questions repeat or contradict each
other, and which are shared with another file. ``retool data check FILE`` prints it.
"""

from __future__ import annotations

from retool_env.data.check import DataReport, Finding, check_rows
from retool_env.data.rows import Row, read_rows

__all__ = ["DataReport", "Finding", "Row", "check_rows", "read_rows"]
