"""Fortran in free form, by gfortran."""

from runnerd import Install, Language, hookimpl


@hookimpl
def register_languages() -> list[Language]:
    """The language, as data."""
    return [
        Language(
            code="f90",
            name="Fortran",
            aliases=("fortran", "gfortran"),
            suffixes=(".f90", ".f95", ".f03", ".f08"),
            filename="main.f90",
            compile=("gfortran", "-ffree-form", "-O2", "-J", "{tmp}", "-o", "{tmp}/main", "{file}"),
            run=("{tmp}/main",),
            image="fortran",
            wall_multiplier=2.0,
            version=("gfortran", "--version"),
            install=Install(debian=("gfortran", "libc6-dev")),
            hello='program hello\n    print "(a)", "hi"\nend program hello\n',
        )
    ]
