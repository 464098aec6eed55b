"""A cell: a namespace set whose PID 1 is a zygote, forked from the master. This is that PID 1.

It forks children (child.py), ends them with all that they started, and renews the writable directories between jobs.
The agent tells it what to do; it decides nothing.

    from the agent                                     to the agent
    F fds      fork a child                            k cpu rss file         the kill is sent: nothing runs any more
    N fds      renew the directories, then fork        x status cpu rss file  the child has ended and everything is reaped
    K          kill everything                         o name                 over this limit, everything is killed
    S          stop the child, or else K               s cpu rss file         it is stopped, and nothing else is there
    W          have it go on
    M bytes n  memory from now on, and processes, where we watch them

`file` is the name of the one file in the workspace, where there is exactly one thing in it; empty says nothing.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import gc
import os
import resource
import select
import signal
import socket
import struct
import time
from typing import NoReturn

from . import child, forks, ipc, landlock, linux, pages, quota, reach, reaper, seccomp, tree
from .options import POD, STRONG, USERNS, Options
from .orders import ENDED, KILLED, WATCHED
from .volume import Volume

FDS = 3
_THREE = struct.Struct("3i")
_ROOM = socket.CMSG_SPACE(_THREE.size)
"""For the descriptors that come with an order to fork."""
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - the sandbox's own
INNER_ID = 65532
"""The one user and group id of a user namespace."""
PRIORITY = -15
"""So that a job with many processes can't keep PID 1 from ending them."""
WATCH_MS = 50
"""How often memory is looked at where no cgroup limits it."""
AGAIN_MS = 10
"""After so long it is looked at again where it was too much: a process that starts another may have its memory twice for a moment."""
GONE_ROUNDS, GONE_S = 100, 0.001
"""How often, and how long after another, a cell looks whether threads of its child that have ended are gone."""
RENEW_BY_UNLINK = 8
"""Up to so many files are unlinked one by one: cheaper than a new mount."""


def start(options: Options, slot: int, control: socket.socket, groups: list[int], watch: bool, ground: child.Ground) -> NoReturn:
    """Become PID 1 of the cell whose namespaces this process is in already. Never returns.

    `groups` are descriptors of cgroup.procs files to enter; `watch` says that no cgroup limits memory.
    """
    linux.set_name("runnerd-cell")
    for group in groups:
        os.write(group, b"0")
        os.close(group)
    if options.level == STRONG:
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    if options.namespaced:
        linux.unshare(linux.CLONE_NEWCGROUP)
    if options.level == USERNS:
        map_ids(INNER_ID, INNER_ID)
    linux.set_pdeathsig(signal.SIGKILL)
    directories = _directories(options, slot)
    if options.namespaced:
        linux.mount("proc", "/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
        linux.drop_bounding_set()
    linux.set_no_new_privs()
    linux.set_dumpable(False)
    child.set_environment(options, slot, options.warm_env)
    if options.level == POD:
        # All processes have one user id: what was there before the job is out of its reach by number.
        ground = ground._replace(filter=seccomp.Filter(seccomp.build(allow_sockets=None, allow_ipc=not options.nested, beyond=os.getpid())))
    Cell(options, slot, control, directories, watch, ground).serve()


def map_ids(uid: int, gid: int) -> None:
    """Map the one user and group that this process had outside its new user namespace."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"{INNER_ID} {uid} 1"), ("gid_map", f"{INNER_ID} {gid} 1")):
        with open("/proc/self/" + name, "w", encoding="ascii") as file:
            file.write(text)


class Directory:
    """A writable directory of the job: a tmpfs of its own, or a plain directory where there is no mount namespace."""

    def __init__(self, path: str, size: int, inodes: int, mounted: bool, owner: int | None, reuse: bool) -> None:
        self.path = path
        self._encoded = os.fsencode(path)
        self._options = f"size={size},nr_inodes={inodes},mode=1777"
        self._mounted = mounted
        self._quota = quota.Quota(path, size, inodes)
        self._owner = owner
        self._reuse = reuse
        if mounted:
            self._mount()
        else:
            tree.remove(path)
            self._make()
        self._clean = self._state()

    def only_file(self) -> bytes:
        """The name of the one file, where there is nothing else; empty otherwise, and where that can't be told."""
        if not self._mounted or self._clean[1] - os.statvfs(self.path).f_ffree != 1:
            return b""
        names = os.listdir(self._encoded)
        return names[0] if names else b""

    @property
    def overfull(self) -> bool:
        """Whether its files take more than they may; never where the file system has a size."""
        return not self._mounted and self._quota.over()

    def used_bytes(self) -> int:
        """Bytes that the files take in memory."""
        if not self._mounted:
            return 0
        state = os.statvfs(self.path)
        return (self._clean[0] - state.f_bfree) * state.f_bsize

    def renew(self) -> bool:
        """Make it as it was before any job. Returns whether it is another directory now."""
        if not self._mounted:
            tree.remove(self.path)
            self._make()
            return True
        # The owner of a directory may leave marks on it that no count shows: attributes, modes. Then it is made anew.
        if self._reuse and (self._state() == self._clean or self._emptied()):
            return False
        linux.umount(self.path, linux.MNT_DETACH)
        self._mount()
        return True

    def _emptied(self) -> bool:
        names = os.listdir(self.path)
        if len(names) > RENEW_BY_UNLINK:
            return False
        try:
            for name in names:
                os.unlink(f"{self.path}/{name}")
        except OSError:  # a directory among them
            return False
        return self._state() == self._clean

    def _state(self) -> tuple[int, int]:
        state = os.statvfs(self.path)
        return (state.f_bfree, state.f_ffree) if self._mounted else (0, 0)

    def _mount(self) -> None:
        linux.mount("tmpfs", self.path, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, self._options)

    def _make(self) -> None:
        os.mkdir(self.path, 0o700)
        if self._owner is not None:
            os.chown(self.path, self._owner, self._owner)


def _directories(options: Options, slot: int) -> list[Directory | Volume]:
    if options.level == POD:
        sizes = ((options.workspace(slot), options.workspace_bytes), (options.tmp(slot), options.tmp_bytes))
        volumes: list[Directory | Volume] = [Volume(path, size, options.files_in_memory) for path, size in sizes]
        return [*volumes, Volume(SHARED_MEMORY, 0, in_memory=False)] if os.access(SHARED_MEMORY, os.W_OK) else volumes
    owner = options.uid_base + slot if os.getuid() == 0 and not options.namespaced else None
    mounted, reuse = options.namespaced, options.level == STRONG
    directories: list[Directory | Volume] = [
        Directory(options.workspace(slot), options.workspace_bytes, options.workspace_inodes, mounted, owner, reuse),
        Directory(options.tmp(slot), options.tmp_bytes, options.tmp_inodes, mounted, owner, reuse),
    ]
    if mounted:
        directories.append(Directory(SHARED_MEMORY, options.shm_bytes, 4096, mounted, owner, reuse))
    return directories


class Cell:
    """The loop of PID 1."""

    def __init__(
        self,
        options: Options,
        slot: int,
        control: socket.socket,
        directories: list[Directory | Volume],
        watch: bool,
        ground: child.Ground,
    ) -> None:
        self._options = options
        self._slot = slot
        self._directories = directories
        self._watch = watch
        self._ground = ground
        self._copy = pages.Copy(ground.pages)
        self._ruleset: landlock.Ruleset | None = None
        self._memory = 0
        self._processes = 0
        """Most processes and threads; 0 where something else limits them."""
        self._child = 0
        self._sleeper = 0
        """A child that is stopped: beside it others are forked, one at a time."""
        self._awake_ns = 0
        """CPU time of the child, or the sleeper, that was told when it was stopped."""
        self._told_ns = 0
        """CPU time of children that live or have lived on, as was told then."""
        self._over_since = 0.0
        """When too much memory was found first; 0 where there was not."""
        self._status = 0
        self._rss = 0
        self._reaper = reaper.for_level(options.level)
        os.dup2(control.fileno(), FDS)
        control.detach()
        linux.close_range(FDS + 1)
        self._ipc = ipc.Namespace(options.tmp(slot)) if options.level == STRONG else None  # at all others jobs can make nothing there
        self._control = socket.socket(fileno=FDS)
        self._woken, wake = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(self._woken, False)
        signal.signal(signal.SIGCHLD, _only_wake)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def serve(self) -> NoReturn:
        """Do as the agent says until it hangs up; then everything in this PID namespace ends."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        while True:
            for fd, _ in poll.poll(self._patience()):
                if fd == FDS:
                    self._command()
                else:
                    os.read(self._woken, 4096)
            self._reap()
            if self._watch and self._memory and self._child:
                self._check()

    def _patience(self) -> int | None:
        """Milliseconds until memory is looked at again, None where that need not be."""
        if not (self._watch and self._memory and self._child):
            return None
        return AGAIN_MS if self._over_since else WATCH_MS

    def _command(self) -> None:
        try:
            message, ancillary, _, _ = self._control.recvmsg(8192, _ROOM)  # not recv_fds: its ways are long, and most have none
        except ConnectionResetError:
            message, ancillary = b"", []
        code = message[:1]
        if code == b"F":
            self._fork(ancillary)
        elif code == b"N":
            self._renew()
            self._fork(ancillary)
        elif code == b"K":
            self._kill()
        elif code == b"S":
            self._sleep()
        elif code == b"W":
            self._wake()
        elif code == b"M":
            _, self._memory, self._processes = WATCHED.unpack(message)
            self._over_since = 0.0
        else:  # the agent is gone
            self._reaper.kill()
            os._exit(0)

    def _renew(self) -> None:
        """Make the directories as they were; a ruleset stands for those that it was made for."""
        if self._sleeper:
            self._sleeper = 0
            self._reaper.kill()
            self._reap(wait=True)
        if self._ipc is not None:
            self._ipc.renew()
        made_anew = False
        for directory in self._directories:
            made_anew |= directory.renew()
        if made_anew and self._ruleset is not None:
            self._ruleset.close()
            self._ruleset = None

    def _fork(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        fds = _THREE.unpack(ancillary[0][2])
        stdout, stderr, control = fds
        if self._ruleset is None:
            self._ruleset = reach.ruleset(self._options, self._slot)
        if not self._sleeper:
            self._awake_ns = 0
        gc.freeze()  # new objects add up here from job to job: as soon as they start a collection, each job would wait for one
        pid = forks.fork(self._copy)
        if pid == 0:
            signal.set_wakeup_fd(-1)
            _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)  # without the enums around it, and the pages that they are on
            child.main(self._options, self._slot, self._ground, self._ruleset, stdout, stderr, control)
        for fd in fds:
            os.close(fd)
        self._child, self._status, self._rss = pid, 0, 0

    def _sleep(self) -> None:
        """Stop the child, where it is alone and has one thread: then nothing of it runs until it goes on. Else end everything."""
        self._reap()
        if not self._child:
            return  # that was told
        if not self._alone() or not reaper.stopped(self._child) or not self._alone(patient=False):
            self._kill()
            return
        cpu, rss = reaper.usage(self._child)
        self._sleeper, self._child, self._memory = self._child, 0, 0
        spent, self._awake_ns = cpu - self._awake_ns, cpu
        self._told_ns += spent
        self._control.send(KILLED.pack(b"s", max(0, spent), rss) + self._directories[0].only_file())

    def _alone(self, patient: bool = True) -> bool:
        """Whether the child is all that there is, with one thread: looked at twice, for what is just being forked.

        A thread that was waited for may take a moment to be gone, and nothing tells when it is.
        """
        for _ in range(GONE_ROUNDS if patient else 1):
            if self._reaper.tasks() == 1 == self._reaper.tasks():
                return True
            if patient:
                time.sleep(GONE_S)
        return False

    def _wake(self) -> None:
        self._child, self._sleeper = self._sleeper, 0
        self._status, self._rss = 0, 0
        if self._child:
            os.kill(self._child, signal.SIGCONT)
        else:
            self._control.send(ENDED.pack(b"x", signal.SIGKILL, 0, 0))

    def _kill(self) -> None:
        """End everything, and say what the child cost so far."""
        self._sleeper = 0
        cpu, rss = reaper.usage(self._child) if self._watch and self._child else (0, 0)
        self._reaper.kill()
        self._control.send(KILLED.pack(b"k", cpu, rss) + self._directories[0].only_file())

    def _reap(self, wait: bool = False) -> None:
        """Collect what has ended; when the child has, end what it left behind and report. `wait` until all have."""
        ended = False
        while True:
            try:
                pid, status, usage = os.wait4(-1, 0 if (ended and not self._sleeper) or wait else os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == self._child:
                self._status, self._rss = status, usage.ru_maxrss * 1024
                if not self._sleeper:  # beside it there are only children of ours, which start nothing
                    self._reaper.kill()
                ended = True
            elif pid == self._sleeper:
                self._sleeper = 0
            elif ended:
                self._reaper.kill()  # only where a kill may miss a process that was being forked
        if ended:
            self._child, self._memory = 0, 0
            spent = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = max(0, int((spent.ru_utime + spent.ru_stime) * 1e9) - self._told_ns)
            self._control.send(ENDED.pack(b"x", self._status, cpu, self._rss) + self._directories[0].only_file())

    def _check(self) -> None:
        over = self._over()
        if over == b"memory":
            now = time.monotonic()
            self._over_since = self._over_since or now
            if now - self._over_since < AGAIN_MS / 1000:
                return
        self._over_since = 0.0
        if over:
            self._memory = 0
            self._control.send(b"o" + over)
            self._reaper.kill()

    def _over(self) -> bytes:
        """Which limit is over, if any."""
        own, shared = self._reaper.memory()
        files = sum(directory.used_bytes() for directory in self._directories)
        common = max(shared, files)  # what is mapped may be these files: nobody tells, and none counts twice
        if own + common > self._memory and self._reaper.own_memory() + common > self._memory:
            return b"memory"
        if self._processes and self._reaper.tasks() > self._processes:
            return b"processes"
        return b"workspace" if any(directory.overfull for directory in self._directories) else b""


def _only_wake(*_: object) -> None:
    """All that a signal does. No function of a cell's own, which each child would have to take apart."""
