"""Every hostile program of the corpus against the local sandbox, judged from the host's side.

One sandbox at the best tier that this user gets takes the whole corpus; when root, the corpus runs once more as
``nobody``. The control is a bare process: a judge that found nothing wrong with that one would see nothing at all.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

from retool_env.errors import UsageError
from tests.hostile import exceptions
from tests.hostile.backends import BareProcess, open_backend
from tests.hostile.corpus import CATEGORIES, CORPUS, pick
from tests.hostile.judge import Judge
from tests.hostile.model import Hostile
from tests.hostile.nobody import run_as_nobody

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the local sandbox needs Linux")

SEEN = {
    "daemon-allowed": "left the process",
    "litters-temporary-places": "on the host",
    "reads-canary-files": "printed the secret of file-644",
    "own-environment": "printed the secret of environment",
    "environment-of-others": "printed the secret of argument",
    "inherited-descriptors": "printed the secret of descriptor",
    "connects-to-localhost": "reached the tcp canary",
    "sends-a-datagram": "reached the udp canary",
    "abstract-socket": "reached the abstract canary",
    "opens-a-door": "opened a port",
    "path-socket": "reached the path canary",
    "writes-into-a-host-directory": "changed the canary file 'open-777/hx-new'",
    "signals-a-range": "the canary process got a signal",
    "kills-the-canary": "killed the canary process",
    "slows-the-canary": "changed the canary's priority",
    "leaves-notes-for-the-next": "the next program ended",
    "squats-names": "the neighbour ended",
    "one-big-block": "not memory",
    "flood-stdout": "characters of stdout were kept",
}
"""What the judge must see when a program is not contained at all."""


@pytest.fixture(scope="class")
def sandbox_judge() -> Iterator[Judge]:
    with Judge(open_backend) as opened:
        yield opened
        assert opened.finish() == []


@pytest.fixture(scope="class")
def control_judge() -> Iterator[Judge]:
    with Judge(BareProcess) as opened:
        yield opened


class TestContained:
    """A class, so that its sandbox is closed before the control's judge begins."""

    @pytest.mark.parametrize("program", CORPUS, ids=lambda program: program.name)
    def test_contained(self, sandbox_judge: Judge, program: Hostile) -> None:
        verdict = sandbox_judge.try_program(program)
        known = exceptions.known(sandbox_judge.tier, program)
        if known is None:
            assert verdict.reasons == ()
        elif known.always:
            assert not verdict.contained, f"it is contained now: take {known} off the list"
        elif not verdict.contained:
            pytest.xfail(known.why)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody; this user has run the corpus as itself")
def test_contained_as_nobody() -> None:
    try:
        done = run_as_nobody(["-m", "tests.hostile"], capture=True)
    except UsageError as error:
        pytest.skip(str(error))
    assert done.returncode == 0, done.stdout


class TestControl:
    @pytest.mark.parametrize(("name", "reason"), SEEN.items())
    def test_judge_sees_what_is_not_contained(self, control_judge: Judge, name: str, reason: str) -> None:
        (program,) = pick([name])
        reasons = control_judge.try_program(program).reasons
        assert any(reason in found for found in reasons), reasons


def test_exceptions_name_what_exists() -> None:
    names = {program.name for program in CORPUS} | set(CATEGORIES)
    assert {known.what for known in exceptions.every()} <= names


def test_corpus_is_as_wide_as_it_says() -> None:
    assert len(CORPUS) >= 130
    assert len(CATEGORIES) >= 12
    assert len({program.code + repr(program.limits) + program.stdin for program in CORPUS}) == len(CORPUS)


def test_unknown_program_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="did you mean 'busy-loop'"):
        pick(["busy-lop"])
