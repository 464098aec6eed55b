"""JavaScript on Node.js."""

from runnerd import Install, Language, hookimpl

GLOBAL_MODULES = "/usr/local/lib/node_modules:/usr/lib/node_modules:/usr/share/nodejs"
"""Where npm installs for all users: by default, as a vendor's package does, as Debian's packages do."""


@hookimpl
def register_languages() -> list[Language]:
    """The language, as data."""
    return [
        Language(
            code="js",
            name="JavaScript",
            aliases=("javascript", "node", "nodejs"),
            suffixes=(".js", ".mjs", ".cjs"),
            filename="main.js",
            run=("node", "{file}"),
            env={"NODE_PATH": GLOBAL_MODULES},
            image="javascript",
            warm=2,
            version=("node", "--version"),
            install=Install(debian=("nodejs",)),
            hello='console.log("hi")\n',
        )
    ]
