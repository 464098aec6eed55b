"""Programs that attack their compiler: it runs in the sandbox too, within limits, and what goes wrong is the compile stage's."""

import re

import anyio
import pytest

from runnerd.job import File, Job, Limits, Result, new_id
from runnerd.limits import LimitSettings, effective
from runnerd.plugins import find_plugins
from runnerd.spec import Executor, Language
from toolchain import require

pytestmark = pytest.mark.slow

LANGUAGES = find_plugins().languages
LIMITS = Limits(wall_s=5.0)

ENDLESS = ("/dev/random", "/dev/urandom", "/dev/zero", "/dev/full")
EMPTY = ("/dev/null", "/proc/self/mem")
NO_INPUT = ("/dev/stdin", "/proc/self/fd/0")
"""A compile stage has no standard input: it is empty, or can't be opened by its name."""
SECRETS = ("/etc/shadow", "/root/.bashrc", "/proc/1/environ", "/proc/kmsg", "/dev/mem", "/dev/tty")

C_BOMBS = {
    "initialised array": "int main[1 << 28] = {1};",
    "two arrays": "char a[1L << 33] = {1}, b[1L << 33] = {1}; int main(void) { return a[0] + b[1]; }",
    "macros": "\n".join(["#define a0 x;x;x;x;x;x;x;x;", *(f"#define a{i} {f'a{i - 1} ' * 8}" for i in range(1, 12)), "int x; a11"]),
    "includes": '#include "main.c"\n#include "main.c"\n',
    "assembler reads a device": '__asm__(".incbin \\"/dev/zero\\""); int main(void) { return 0; }',
    "assembler repeats": '__asm__(".rept 1000000000\\n .quad 1\\n .endr"); int main(void) { return 0; }',
}
CPP_BOMBS = {
    "templates": "template<int n> struct A { A<n - 1> a; A<n - 2> b; }; template<> struct A<0> {}; A<800> a; int main() {}",
    "doubling templates": (
        "template<int n, class T> struct P { typename P<n - 1, P<n, T*>>::t a; typename P<n - 1, P<n, T&>>::t b; using t = P; };"
        "template<class T> struct P<0, T> { using t = P; }; P<60, int> p; int main() {}"
    ),
    "constant expression": "constexpr int f(long n) { while (n) ++n; return 0; } constexpr int x = f(1); int main() {}",
}
OTHER_BOMBS = {
    "rs": 'static A: &[u8] = include_bytes!("/dev/zero");\nfn main() { println!("{}", A.len()); }\n',
    "f90": "include '/dev/zero'\nend\n",
    "d": "int f() { for (;;) {} return 0; }\nenum x = f();\nvoid main() {}\n",
}
BOMBS = [
    *(("c", name, code) for name, code in C_BOMBS.items()),
    *(("cpp", name, code) for name, code in CPP_BOMBS.items()),
    *((lang, "reads or counts without end", code) for lang, code in OTHER_BOMBS.items()),
]


@pytest.fixture(autouse=True)
def toolchain() -> None:
    for code in ("c", "cpp", *OTHER_BOMBS):
        require(LANGUAGES[code])


async def run(executor: Executor, language: Language, code: str, files: tuple[File, ...] = (), limits: Limits = LIMITS) -> Result:
    job = Job(id=new_id(), tenant="hostile", lang=language.code, code=code, files=files, limits=limits)
    result = None
    async with executor.sandbox(language) as sandbox:
        async for event in sandbox.run(job, language, effective(job, language, LimitSettings())):
            result = event
    assert isinstance(result, Result)
    return result


def failed_to_compile(result: Result) -> bool:
    return result.stage == "compile" and result.status in ("failed", "timeout", "oom", "limit") and result.stdout == ""


@pytest.mark.parametrize("lang", ["c", "cpp"])
@pytest.mark.parametrize("path", [*ENDLESS, *EMPTY, *NO_INPUT])
async def test_compiler_reads_device(executor: Executor, lang: str, path: str) -> None:
    language = LANGUAGES[lang]
    result = await run(executor, language, f'#include "{path}"\nint main() {{ return 0; }}\n')
    if path not in ENDLESS:
        assert result.status == "ok" or (path in NO_INPUT and failed_to_compile(result)), result
    else:
        assert failed_to_compile(result), result
    assert (await run(executor, language, language.hello, limits=Limits())).stdout == "hi\n"


@pytest.mark.parametrize("path", SECRETS)
async def test_compiler_reads_no_secret(executor: Executor, path: str) -> None:
    result = await run(executor, LANGUAGES["c"], f'#include "{path}"\nint main() {{ return 0; }}\n')
    assert failed_to_compile(result), result
    assert result.compile is not None
    assert re.search("No such file|ermission denied|No such device", result.compile.stderr), result


@pytest.mark.parametrize(("lang", "name", "code"), BOMBS, ids=[f"{lang}-{name}" for lang, name, _ in BOMBS])
async def test_compiler_bomb(executor: Executor, lang: str, name: str, code: str) -> None:
    language = LANGUAGES[lang]
    assert failed_to_compile(await run(executor, language, code)), name
    assert (await run(executor, language, language.hello, limits=Limits())).stdout == "hi\n"


async def test_programs_are_compiled_and_run_side_by_side(executor: Executor) -> None:
    """Each runs its own binary, and none finds it still open for writing."""
    language = LANGUAGES["c"]
    wrong: list[Result] = []

    async def one(worker: int) -> None:
        for turn in range(10):
            word = f"job {worker} {turn}"
            result = await run(executor, language, f'#include <stdio.h>\nint main(void) {{ puts("{word}"); }}\n', limits=Limits())
            if result.stdout != word + "\n":
                wrong.append(result)

    async with anyio.create_task_group() as tasks:
        for worker in range(8):
            tasks.start_soon(one, worker)
    assert wrong == []
