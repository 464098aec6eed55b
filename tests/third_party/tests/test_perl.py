"""What runnerd asks of every language, asked of this one."""

from pathlib import Path

from runnerd_perl import PERL

from runnerd.testing import LanguageContract, Programs


class TestPerl(LanguageContract):
    """Runs in sandboxes of this machine; `perl` has to be installed."""

    language = PERL
    programs = Programs.read(Path(__file__).parent / "programs")
