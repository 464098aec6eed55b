"""Go, without a network: the standard library and what a job brings along."""

from runnerd import Install, Language, hookimpl


@hookimpl
def register_languages() -> list[Language]:
    """The language, as data."""
    return [
        Language(
            code="go",
            name="Go",
            aliases=("golang",),
            suffixes=(".go",),
            filename="main.go",
            compile=("go", "build", "-o", "{tmp}/main", "{file}"),
            run=("{tmp}/main",),
            env={"GO111MODULE": "auto", "GOFLAGS": "-buildvcs=false", "GOPROXY": "off", "GOTOOLCHAIN": "local"},
            image="go",
            wall_multiplier=1.5,
            memory_multiplier=1.2,
            version=("go", "version"),
            install=Install(debian=("golang-go", "gcc", "libc6-dev")),
            hello='package main\n\nimport "fmt"\n\nfunc main() { fmt.Println("hi") }\n',
        )
    ]
