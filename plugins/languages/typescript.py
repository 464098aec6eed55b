"""TypeScript 6 or later, checked and translated by its own compiler, run by Node.js."""

from runnerd import Install, Language, hookimpl

GLOBAL_MODULES = "/usr/local/lib/node_modules:/usr/lib/node_modules:/usr/share/nodejs"
"""Where npm installs for all users: by default, as a vendor's package does, as Debian's packages do."""
TYPES = ",".join(f"{directory}/@types" for directory in GLOBAL_MODULES.split(":"))
# Type errors are compile errors; what is merely not annotated is not (strict false). The browser's library is left out:
# its globals (`name`, `event`, …) collide with programs. Modules are CommonJS, so that `import` and `require` both work.
OPTIONS = (
    *("--target", "es2022", "--lib", "es2023", "--module", "commonjs", "--moduleDetection", "force"),
    *("--types", "node", "--typeRoots", TYPES, "--strict", "false", "--skipLibCheck", "--allowJs", "--resolveJsonModule"),
    *("--noEmitOnError", "--inlineSourceMap", "--ignoreConfig", "--pretty", "false", "--rootDir", ".", "--outDir", "{tmp}/js"),
)


@hookimpl
def register_languages() -> list[Language]:
    """The language, as data."""
    return [
        Language(
            code="ts",
            name="TypeScript",
            aliases=("typescript",),
            suffixes=(".ts",),
            filename="main.ts",
            compile=("tsc", *OPTIONS, "{file}"),
            run=("node", "--enable-source-maps", "{tmp}/js/{stem}.js"),
            env={"NODE_PATH": GLOBAL_MODULES},
            image="typescript",
            wall_multiplier=2.0,
            version=("tsc", "--version"),
            install=Install(debian=("nodejs", "npm"), npm=("typescript@7", "@types/node@20")),
            hello='const greeting: string = "hi"\nconsole.log(greeting)\n',
        )
    ]
