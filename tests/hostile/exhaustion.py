"""Attacks that use up what there is: processes, memory, files, time, output; and those that stay behind."""

from hostile.attack import NAMESPACED, Attack, ended, reached, refused, said
from runnerd import Result


def number(result: Result) -> int:
    """The last word that it printed."""
    return int(result.stdout.split()[-1])


LINGER = {"wall_s": 1.0}
BURN_MEMORY = """
kept = []
while True:
    kept.append(bytearray(b"x") * (4 << 20))
"""

EXHAUSTION = (
    Attack(
        "fork bomb",
        "T-01",
        """
while True:
    try: os.fork()
    except OSError: pass
""",
        reached("processes", "timeout"),
        limits={"wall_s": 1.5},
    ),
    Attack(
        "fork bomb whose dead are replaced at once",
        "T-01 T-13",
        """
def again(*_):
    try: os.fork()
    except OSError: pass
signal.signal(signal.SIGCHLD, again)
while True:
    try:
        if os.fork() == 0: os._exit(0)
    except OSError: pass
""",
        ended("limit", "timeout"),
        limits={"wall_s": 1.5},
    ),
    Attack(
        "processes that are replaced by their children for ever",
        "T-13",
        """
if os.fork() == 0:
    os.setsid()
    while True:
        try:
            if os.fork(): os._exit(0)
        except OSError: pass
print("done")
""",
        said("done"),
    ),
    Attack(
        "thread bomb",
        "T-02",
        """
started, stop = 0, threading.Event()
try:
    while started < 1000:
        threading.Thread(target=stop.wait).start()
        started += 1
except RuntimeError: pass
stop.set()
print("started", started)
""",
        lambda result: result.status in ("ok", "limit") and number(result) < 64,
        levels=NAMESPACED,
    ),
    Attack("memory", "T-03", BURN_MEMORY, reached("memory_bytes", "failed", "oom")),
    Attack(
        "memory of a grandchild",
        "T-03 T-04",
        """
if os.fork() == 0:
    if os.fork() == 0:
        kept = []
        while True: kept.append(bytearray(b"x") * (4 << 20))
    os.wait()
    os._exit(1)
os.wait()
sys.exit(1)
""",
        reached("memory_bytes", "failed", "oom"),
    ),
    Attack(
        "memory of many processes, none of which has much",
        "T-04",
        """
ready = []
for _ in range(10):
    read, write = os.pipe()
    if os.fork() == 0:
        kept = bytearray(b"x") * (48 << 20)
        os.write(write, b"x")
        time.sleep(60)
        os._exit(0)
    os.close(write)
    ready.append(read)
got = sum(os.read(read, 1) == b"x" for read in ready)
sys.exit(0 if got == 10 else 1)
""",
        reached("memory_bytes", "oom"),
    ),
    Attack(
        "memory behind descriptors",
        "T-03",
        """
kept = []
def keep():
    for i in range(100):
        fd = os.memfd_create("x")
        for _ in range(8): os.write(fd, b"x" * (1 << 20))
        kept.append(fd)
tried("memfd", keep)
""",
        # without a cgroup nobody counts it, so there is none
        lambda result: refused(result) if result.sandbox and result.sandbox.level != "strong" else reached("memory_bytes")(result),
    ),
    Attack(
        "memory that processes share",
        "T-03 T-04",
        """
import mmap
kept = [mmap.mmap(-1, 64 << 20) for _ in range(8)]
for _ in range(2): os.fork()
for each in kept:
    for at in range(0, 64 << 20, 4096): each[at] = 1
time.sleep(60)
""",
        reached("memory_bytes"),
    ),
    Attack(
        "memory that is shared, and not too much",
        "T-04",
        """
import mmap
kept = mmap.mmap(-1, 96 << 20)
for at in range(0, 96 << 20, 4096): kept[at] = 1
pids = [os.fork() for _ in range(4)]
if 0 in pids:
    for at in range(0, 96 << 20, 4096): kept[at]
    time.sleep(0.3)
    os._exit(0)
for pid in pids: os.waitpid(pid, 0)
print("done")
""",
        said("done"),
    ),
    Attack(
        "a full disk",
        "T-05 T-03",
        """
def fill():
    for i in range(4096):
        with open(f"/mnt/data/{i}", "wb") as file: file.write(b"x" * (4 << 20))
tried("fill", fill)
""",
        refused,
        levels=NAMESPACED,
    ),
    Attack(
        "a full disk that has no quota",
        "T-05",
        """
os.makedirs("deep/er")
for i in range(4096):
    with open(f"deep/er/{i}", "wb") as file: file.write(b"x" * (4 << 20))
    time.sleep(0.01)
""",
        reached("workspace_bytes"),
        levels=("landlock",),
    ),
    Attack(
        "a full /dev/shm",
        "T-03 T-05",
        """
def fill():
    for i in range(4096):
        with open(f"/dev/shm/{i}", "wb") as file: file.write(b"x" * (4 << 20))
tried("fill", fill)
""",
        refused,
        levels=NAMESPACED,
    ),
    Attack(
        "sparse files of a terabyte",
        "T-05 T-26",
        """
def sparse():
    with open("sparse", "wb") as file: file.truncate(1 << 40)
def allocate():
    with open("allocated", "wb") as file: os.posix_fallocate(file.fileno(), 0, 1 << 34)
def written_at_the_end():
    with open("end", "wb") as file: os.pwrite(file.fileno(), b"x", 1 << 40)
tried("sparse", sparse)
tried("allocate", allocate)
tried("written at the end", written_at_the_end)
""",
        refused,
    ),
    Attack(
        "a hundred thousand files",
        "T-06 T-26",
        """
made = 0
try:
    for i in range(100_000):
        open(f"{i}".rjust(20, "x"), "w").close()
        made += 1
except OSError: pass
print("made", made)
""",
        lambda result: result.status == "ok" and number(result) <= 16_384 and len(result.files) <= 64 and bool(result.skipped),
        levels=NAMESPACED,
    ),
    Attack(
        "directories ten thousand deep",
        "T-06",
        """
depth = 0
try:
    while depth < 10_000:
        os.mkdir("d" * 200)
        os.chdir("d" * 200)
        depth += 1
    open("file", "w").close()
except OSError as error: print(error)
print("depth", depth)
""",
        ended("ok", "limit"),  # the deeper, the more each step costs
        limits={"cpu_s": 2.0},
    ),
    Attack("CPU time", "T-07", "while True: pass\n", reached("cpu_s"), limits={"cpu_s": 1.0}),
    Attack(
        "CPU time, its signal ignored",
        "T-07 T-14",
        """
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: pass
""",
        reached("cpu_s"),
        limits={"cpu_s": 1.0},
    ),
    Attack("sleeping past the deadline", "T-14", "time.sleep(600)\n", reached("wall_s"), limits=LINGER),
    Attack(
        "ignoring every signal past the deadline",
        "T-14",
        """
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
while True: time.sleep(600)
""",
        reached("wall_s"),
        limits=LINGER,
    ),
    Attack("stopping one's own process group", "T-14", "os.kill(0, signal.SIGSTOP)\ntime.sleep(600)\n", reached("wall_s"), limits=LINGER),
    Attack(
        "a child that holds the output",
        "T-15",
        """
if os.fork() == 0: time.sleep(600)
print("done")
""",
        said("done"),
    ),
    Attack(
        "a daemon that no one owns any more",
        "T-13",
        """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in range(1, 65):
            try: signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError): pass
        os.closerange(0, 256)
        while True: time.sleep(600)
    os._exit(0)
os.wait()
print("done")
""",
        said("done"),
    ),
    Attack(
        "a child that is stopped",
        "T-13",
        """
pid = os.fork()
if pid == 0:
    os.setsid()
    os.kill(os.getpid(), signal.SIGSTOP)
os.waitpid(pid, os.WUNTRACED)
print("done")
""",
        said("done"),
    ),
    Attack(
        "a survivor that was there before the deadline",
        "T-13",
        """
for _ in range(8):
    if os.fork() == 0:
        os.setsid()
        while True: time.sleep(600)
time.sleep(600)
""",
        reached("wall_s"),
        limits=LINGER,
    ),
    Attack(
        "all descriptors",
        "T-10",
        """
kept = []
try:
    while len(kept) < 100_000: kept.append(os.open("/dev/null", os.O_RDONLY))
except OSError: pass
for _ in range(20): os.close(kept.pop())
try:
    while True: kept += socket.socketpair()
except OSError: pass
print("opened", len(kept))
""",
        lambda result: result.status == "ok" and 64 <= number(result) <= 128,
    ),
    Attack(
        "a gigabyte of output",
        "T-31",
        """
block = b"x" * (1 << 20)
for _ in range(1024): os.write(1, block)
print("done")
""",
        lambda result: result.status in ("ok", "limit") and result.stdout_truncated and len(result.stdout) <= 64 << 10,
    ),
    Attack(
        "a hundred thousand single bytes, on both outputs in turn",
        "T-31",
        """
for _ in range(100_000):
    os.write(1, b"x")
    os.write(2, b"y")
""",
        lambda result: (
            result.status in ("ok", "limit")
            and (result.stdout, result.stderr) == ("x" * (64 << 10), "y" * (64 << 10))
            and result.stdout_truncated
            and result.stderr_truncated
        ),
    ),
    Attack(
        "the clock and the name of the machine",
        "T-08",
        """
tried("clock", lambda: time.clock_settime(time.CLOCK_REALTIME, 0))
tried("hostname", lambda: socket.sethostname("mine"))
""",
        refused,
    ),
    Attack(
        "a compiler that reads without an end",
        "T-11",
        '#include "/dev/zero"\nint main(void) { return 0; }\n',
        ended("failed", "timeout", "oom", "limit"),
        lang="c",
        limits={"wall_s": 3.0},
    ),
    Attack(
        "a compiler that writes a gigabyte",
        "T-12",
        "int main[1u << 28] = {1};\n",
        ended("failed", "timeout", "oom", "limit"),
        lang="c",
        limits={"wall_s": 10.0},
    ),
    Attack(
        "macros that grow for ever",
        "T-12",
        "#define A(x) x x x x x x x x\n#define B(x) A(A(A(A(x))))\nint main(void) { B(B(B(;))) return 0; }\n",
        ended("failed", "timeout", "oom", "limit"),
        lang="c",
        limits={"wall_s": 3.0},
    ),
)
"""What one job may not take from others."""
