"""Attacks on what a job leaves: its words on the wire, its output, its files."""

import io
import zipfile

from hostile.attack import ISOLATED, NAMESPACED, Attack, ended, said
from runnerd import File, Result

HEAD = """
def frame(header, body=b""):
    head = header if isinstance(header, bytes) else repr(header).replace("'", '"').encode()
    return struct.pack("!II", len(head), len(body)) + head + body
def send(fd, data):
    try: os.write(fd, data)
    except OSError: pass
"""


def only(*names: str):
    """Just these files are returned, and nothing of the host's is in any."""

    def holds(result: Result) -> bool:
        return result.status == "ok" and sorted(file.name for file in result.files) == sorted(names) and b"root:" not in _contents(result)

    return holds


def _contents(result: Result) -> bytes:
    return b"".join(file.content for file in result.files)


WORDS = ("$(touch pwned)", "-rf", ";touch pwned", "`touch pwned`", "a\\", "|& touch pwned", "~", "*")
"""Names, arguments and values that a shell would do something with."""


def _zip(*names: str) -> bytes:
    """An archive whose members have these names, a link to the host's files and much of nothing beside them."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, "mine")
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        with archive.open("zeros", "w") as zeros:
            for _ in range(64):
                zeros.write(bytes(1 << 20))
    return packed.getvalue()


EVIL_ZIP = _zip("../escaped", "/escaped", "a/../../escaped", "..")

LEAVING = (
    Attack(
        "garbage on every descriptor",
        "T-33",
        HEAD + "for fd in range(3, 64):\n    for _ in range(50): send(fd, b'\\xff' * 4096)\nprint('done')\n",
        ended("ok", "failed"),
    ),
    Attack(
        "an endless frame on every descriptor",
        "T-33",
        HEAD + "for fd in range(3, 64): send(fd, struct.pack('!II', 4 << 20, 1 << 20))\nprint('done')\n",
        ended("ok", "failed", "timeout"),
        limits={"wall_s": 2.0},
    ),
    Attack(
        "a frame deeper than a parser goes, on every descriptor",
        "T-33",
        HEAD + "deep = b'{\"a\":' + b'[' * 100_000\n" + "for fd in range(3, 64): send(fd, frame(deep))\ntime.sleep(0.3)\nprint('done')\n",
        ended("ok", "failed"),
    ),
    Attack(
        "frames without end on every descriptor",
        "T-33",
        HEAD
        + "some = frame({'type': 'began'}) * 1000\n"
        + "for fd in range(3, 64): os.set_blocking(fd, False) if os.path.exists(f'/proc/self/fd/{fd}') else 0\n"
        + "until = time.monotonic() + 1\n"
        + "while time.monotonic() < until:\n    for fd in range(3, 64): send(fd, some)\nprint('done')\n",
        ended("ok", "failed"),
    ),
    Attack(
        "the end of the job, forged",
        "T-33",
        HEAD + "for fd in range(3, 64): send(fd, frame({'type': 'done', 'code': 0}))\ntime.sleep(600)\n",
        ended("ok", "timeout", "failed"),
        limits={"wall_s": 2.0},
    ),
    Attack(
        "every frame there is, forged",
        "T-33",
        HEAD
        + """
for kind in ("ready", "failed", "done", "collected", "file", "skipped", "ended", "started", "output", "lost", "run", "", None, 7):
    for fd in range(3, 64): send(fd, frame({"type": kind, "code": "x", "name": "../../x", "reason": "words of the program"}, b"root:x:0:0"))
for fd in range(3, 64): send(fd, frame(b"[1]") + frame(b"nonsense") + frame(b'{"type": []}'))
print("done")
""",
        lambda result: "words" not in result.reason and not [file for file in result.files if ".." in file.name],
    ),
    Attack(
        "frames as output",
        "T-33",
        HEAD + "sys.stdout.flush()\nfor _ in range(10): os.write(1, frame({'type': 'done', 'code': 7}))\n",
        said('"type": "done"'),
    ),
    Attack(
        "reading what is not for it",
        "T-33",
        """
for fd in range(3, 64):
    try:
        os.set_blocking(fd, False)
        print("READ", os.read(fd, 4096))
    except OSError: pass
print("done")
""",
        lambda result: result.status in ("ok", "failed") and "READ b'" not in result.stdout.replace("READ b''", ""),
    ),
    Attack(
        "closing all descriptors",
        "T-33",
        "os.closerange(0, 256)\ntime.sleep(0.1)\nos._exit(0)\n",
        ended("ok", "failed"),
    ),
    Attack(
        "bytes that are no text",
        "T-32",
        "os.write(1, b'\\xff\\x00\\xf0\\x9f'); time.sleep(0.05); os.write(1, b'\\x98\\x80\\xed\\xa0\\x80\\r\\n\\x1b]0;x\\x07')\n",
        lambda result: result.stdout_bytes == b"\xff\x00\xf0\x9f\x98\x80\xed\xa0\x80\r\n\x1b]0;x\x07",
    ),
    Attack(
        "links out",
        "T-21 T-22",
        """
open("real", "w").write("mine")
os.symlink("/etc/passwd", "absolute")
os.symlink("../../etc/passwd", "relative")
os.symlink("real", "inside")
os.symlink("nothing", "dangling")
os.symlink("loop", "loop")
os.symlink("/etc", "directory")
os.symlink("/proc/self/environ", "proc")
os.mkdir("sub")
os.symlink("/", "sub/root")
""",
        only("real"),
        levels=ISOLATED,
    ),
    Attack(
        "hard links",
        "T-23",
        """
for path in ("/etc/passwd", "/usr/bin/su", "@SECRET@"):
    try: os.link(path, os.path.basename(path))
    except OSError as error: print("refused", error)
open("real", "w").write("mine")
""",
        only("real"),
        levels=ISOLATED,
    ),
    Attack(
        "things that are no files",
        "T-25",
        """
os.mkfifo("fifo")
s = socket.socketpair()
try:
    server = socket.socket(socket.AF_UNIX); server.bind("socket")
except OSError: pass
try: os.mknod("device", 0o020666, os.makedev(1, 5))
except OSError: pass
open("locked", "w").write("x"); os.chmod("locked", 0)
os.mkdir("closed"); os.chmod("closed", 0)
open("real", "w").write("mine")
""",
        lambda result: (
            result.status == "ok"
            and "real" in [file.name for file in result.files]
            and {"fifo"} <= {skipped.name for skipped in result.skipped}
            and not {"fifo", "socket", "device"} & {file.name for file in result.files}
        ),
    ),
    Attack(
        "an archive that came along",
        "T-27",
        """
print(sorted(os.listdir(".")), os.path.getsize("evil.zip"))
""",  # nobody unpacks it but the job itself
        said(f"['evil.zip', 'main.py'] {len(EVIL_ZIP)}"),
        files=(File(name="evil.zip", data=EVIL_ZIP),),
    ),
    Attack(
        "an archive that it unpacks itself",
        "T-27 T-05",
        """
import io, tarfile
packed = io.BytesIO()
with tarfile.open(fileobj=packed, mode="w") as archive:
    for name, kind, target in (("../escaped", tarfile.REGTYPE, ""), ("/escaped", tarfile.REGTYPE, ""),
                               ("@DIRECTORY@/new", tarfile.REGTYPE, ""), ("link", tarfile.SYMTYPE, "@DIRECTORY@"),
                               ("link/new", tarfile.REGTYPE, ""),
                               ("hard", tarfile.LNKTYPE, "/etc/passwd"), ("device", tarfile.CHRTYPE, ""), ("setuid", tarfile.REGTYPE, "")):
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.mode, member.devmajor, member.devminor = kind, target, 0o4777, 1, 1
        archive.addfile(member)
packed.seek(0)
with tarfile.open(fileobj=packed) as archive:
    for member in archive:
        try: archive._extract_member(member, member.name, set_attrs=False)
        except (OSError, KeyError, tarfile.TarError) as error: print("refused", member.name, error)
print("done")
""",
        lambda result: (
            result.status == "ok"
            and result.stdout.endswith("done\n")
            and {file.name for file in result.files} <= {"setuid", "hard"}
            and _contents(result) == b""
        ),
    ),
    Attack(
        "words for a shell",
        "T-30",
        """
print(sys.argv[1:] == [value for name, value in sorted(os.environ.items()) if name.startswith("EVIL")], sorted(os.listdir(".")))
""",
        said(f"True {sorted((*WORDS, 'main.py'))}"),
        args=WORDS,
        env={f"EVIL{i}": word for i, word in enumerate(WORDS)},
        files=tuple(File(name=word, text="") for word in WORDS),
    ),
    Attack(
        "words for a shell, in the name of a variable",
        "T-30",
        "print(os.environ.get('x;touch pwned;$(touch pwned)'), sorted(os.listdir('.')))\n",
        said("1 ['main.py']"),
        env={"x;touch pwned;$(touch pwned)": "1"},
    ),
    Attack(
        "file names",
        "T-19 T-20",
        r"""
for name in (b"new\nline", b"\xff\xfe", b"n" * 255, b"-rf", b"~", b" ", b"a b ", b"\x1b[2J", b"...",
             b"\\..\\x", b"%2e%2e", "e\u0301\u202e".encode()):
    with open(name, "wb") as file: file.write(b"mine")
""",
        lambda result: (
            result.status == "ok"
            and {"-rf", "~", " ", "a b ", "n" * 255, "..."} <= {file.name for file in result.files}
            and all("\n" not in file.name and "\x1b" not in file.name and "/" not in file.name for file in result.files)
            and _contents(result) == b"mine" * len(result.files)
        ),
    ),
    Attack(
        "too many and too large files",
        "T-26",
        """
for i in range(200): open(f"small-{i:03}", "w").write("x")
with open("large", "wb") as file:
    for _ in range(8): file.write(b"x" * (1 << 20))
""",
        lambda result: result.status == "ok" and len(result.files) <= 64 and bool(result.skipped),
    ),
    Attack(
        "names that the sandbox itself uses",
        "T-24",
        """
for name in ("stdout", "stderr", "result.json", "run.sh", ".exitcode", "main", "a.out", "agent.pyz", "socket"):
    try: os.symlink("/etc/passwd", name)
    except OSError: os.mkfifo(name)
os.unlink("main.py")
os.symlink("/etc/passwd", "main.py")
""",
        only(),
    ),
    Attack(
        "the workspace itself, replaced",
        "T-22 T-28",
        """
here = os.getcwd()
for attempt in (lambda: os.rmdir(here), lambda: os.rename(here, here + "2"), lambda: os.chmod(here, 0), lambda: os.symlink("/etc", here)):
    try: attempt()
    except OSError as error: print("refused", error)
""",
        lambda result: result.status == "ok" and b"root:" not in _contents(result),
        levels=NAMESPACED,
    ),
)
"""What a job can't make others believe."""
