"""Jobs of several files, and programs as people write them: each language finds what lies beside its program."""

import pytest

from runnerd.job import File, Job, Result, new_id
from runnerd.limits import LimitSettings, effective
from runnerd.plugins import find_plugins
from runnerd.spec import Executor
from toolchain import require

pytestmark = pytest.mark.slow

LANGUAGES = find_plugins().languages
MANY_HEADERS = "#include <bits/stdc++.h>\nint main() { std::map<int, std::string> m{{1, \"1\"}}; std::cout << m[1] << '\\n'; }\n"
WEB_SERVER = """package main

import (
    "fmt"
    "net/http"
    "os/user"
)

var _ = user.Current

func main() { fmt.Println(http.StatusOK) }
"""
SOURCE_MAP = 'interface A {\n  x: number\n}\n\n\nconst a: A = { x: 1 }\nconsole.log(new Error("here").stack!.includes("main.ts:7"), a.x)\n'
UNCHECKED = (
    "const name = 'global of browsers'\nfunction f(x) { return x.y }\nconsole.log(name.length, f({ y: 2 }), [1].at(-1), typeof fetch)\n"
)
BORROWED = 'fn main() {\n    let v: Vec<u32> = (1..=4).collect();\n    println!("{}", v.iter().sum::<u32>());\n}\n'

CASES: dict[str, tuple[str, dict[str, str], str, str]] = {
    "py": ("py", {"main.py": "import lib.part\nprint(lib.part.x)\n", "lib/part.py": "x = 1\n"}, "main.py", "1\n"),
    "js": ("js", {"main.js": 'console.log(require("./part").x)\n', "part.js": "exports.x = 1\n"}, "main.js", "1\n"),
    "ts": (
        "ts",
        {"a/main.ts": 'import { x } from "./part"\nconsole.log(x)\n', "a/part.ts": "export const x: number = 1\n"},
        "a/main.ts",
        "1\n",
    ),
    "ts and its configuration": (
        "ts",
        {"x.ts": "console.log(1)\n", "tsconfig.json": '{"compilerOptions": {"outDir": "."}}'},
        "x.ts",
        "1\n",
    ),
    "ts and js and json": (
        "ts",
        {
            "m.ts": 'import d from "./d.json"\nimport { f } from "./f.js"\nconsole.log(f(d.x))\n',
            "d.json": '{"x": 1}',
            "f.js": "exports.f = x => x\n",
        },
        "m.ts",
        "1\n",
    ),
    "ts stack": ("ts", {"main.ts": SOURCE_MAP}, "main.ts", "true 1\n"),
    "ts unchecked": ("ts", {"main.ts": UNCHECKED}, "main.ts", "18 2 1 function\n"),
    "go": (
        "go",
        {
            "go.mod": "module example.org/m\n\ngo 1.19\n",
            "main.go": 'package main\n\nimport "example.org/m/part"\n\nfunc main() { print(part.X, "\\n") }\n',
            "part/part.go": "package part\n\nconst X = 1\n",
        },
        "main.go",
        "",
    ),
    "go web": ("go", {"main.go": WEB_SERVER}, "main.go", "200\n"),
    "java": (
        "java",
        {
            "Main.java": "import org.example.Part;\nclass Main { public static void main(String[] a) { System.out.println(Part.X); } }\n",
            "org/example/Part.java": "package org.example;\npublic class Part { public static final int X = 1; }\n",
        },
        "Main.java",
        "1\n",
    ),
    "c": (
        "c",
        {"main.c": '#include "part.h"\nint main(void) { puts(X); }\n', "part.h": '#include <stdio.h>\n#define X "1"\n'},
        "main.c",
        "1\n",
    ),
    "cpp": ("cpp", {"many.cpp": MANY_HEADERS}, "many.cpp", "1\n"),
    "php": ("php", {"main.php": '<?php require "part.php"; echo X, "\\n";', "part.php": "<?php const X = 1;"}, "main.php", "1\n"),
    "rs": ("rs", {"a-b.rs": "mod part;\n" + BORROWED.replace("(1", "(part::X"), "part.rs": "pub const X: u32 = 1;\n"}, "a-b.rs", "10\n"),
    "r": ("r", {"main.R": 'source("part.R"); cat(x, "\\n", sep = "")\n', "part.R": "x <- 1\n"}, "main.R", "1\n"),
    "f90": (
        "f90",
        {
            "main.f90": 'include "part.f90"\nprogram p\n use part\n print "(i0)", x\nend program\n',
            "part.f90": "module part\n integer :: x = 1\nend module\n",
        },
        "main.f90",
        "1\n",
    ),
    "d": (
        "d",
        {"main.d": "import part;\nvoid main() { say(1); }\n", "part.d": "import std.stdio;\nvoid say(int x) { writeln(x); }\n"},
        "main.d",
        "1\n",
    ),
    "bash": ("bash", {"main.sh": "source ./part.sh; echo $x\n", "part.sh": "x=1\n"}, "main.sh", "1\n"),
    "name like an option": ("c", {"-x.c": "int puts(const char *); int main(void) { puts(__FILE__); }\n"}, "-x.c", "./-x.c\n"),
    "name like a list": ("java", {"@x.java": LANGUAGES["java"].hello.replace("public ", "", 1)}, "@x.java", "hi\n"),
    "name like a command": ("bash", {"$(id);`id`": "echo 1\n"}, "$(id);`id`", "1\n"),
}


@pytest.mark.parametrize(("lang", "files", "entry", "stdout"), CASES.values(), ids=CASES.keys())
async def test_several_files(executor: Executor, lang: str, files: dict[str, str], entry: str, stdout: str) -> None:
    language = LANGUAGES[lang]
    brought = tuple(File(name=name, text=text) for name, text in files.items())
    job = Job(id=new_id(), tenant="files", lang=lang, files=brought, entry=entry)
    result = None
    async with executor.sandbox(language) as sandbox:
        async for event in sandbox.run(job, language, effective(job, language, LimitSettings())):
            result = event
    assert isinstance(result, Result)
    assert (result.status, result.stdout, result.files) == ("ok", stdout, ()), result


@pytest.fixture(autouse=True)
def toolchain() -> None:
    for code in {case[0] for case in CASES.values()}:
        require(LANGUAGES[code])
