"""Python. The one language with warm interpreters: a job costs a fork, not a start."""

from runnerd import Install, Language, hookimpl


@hookimpl
def register_languages() -> list[Language]:
    """The language, as data."""
    return [
        Language(
            code="py",
            name="Python",
            aliases=("python", "python3"),
            suffixes=(".py",),
            filename="main.py",
            run=("python3", "{file}"),
            env={"PYTHONDONTWRITEBYTECODE": "1"},
            image="python",
            warm=5,
            warmup="python",
            version=("python3", "--version"),
            install=Install(debian=("python3",)),
            hello='print("hi")\n',
        )
    ]
