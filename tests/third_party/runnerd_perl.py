"""Perl, as somebody else would add it."""

from runnerd import Install, Language, hookimpl

PERL = Language(
    code="pl",
    name="Perl",
    aliases=("perl",),
    suffixes=(".pl",),
    filename="main.pl",
    run=("perl", "{file}"),
    image="perl",
    version=("perl", "-e", "print $^V"),
    install=Install(debian=("perl",)),
    hello='print "hi\\n";\n',
)


@hookimpl
def register_languages() -> list[Language]:
    """One more language."""
    return [PERL]
