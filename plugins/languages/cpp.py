"""C++, by g++."""

from runnerd import Install, Language, hookimpl


@hookimpl
def register_languages() -> list[Language]:
    """The language, as data."""
    return [
        Language(
            code="cpp",
            name="C++",
            aliases=("c++", "cxx", "g++"),
            suffixes=(".cpp", ".cc", ".cxx"),
            filename="main.cpp",
            compile=("g++", "-std=gnu++20", "-O2", "-pthread", "-o", "{tmp}/main", "{file}"),
            run=("{tmp}/main",),
            image="c-cpp",
            wall_multiplier=1.5,
            memory_multiplier=1.5,
            version=("g++", "--version"),
            install=Install(debian=("g++",)),
            hello='#include <iostream>\n\nint main() { std::cout << "hi\\n"; }\n',
        )
    ]
