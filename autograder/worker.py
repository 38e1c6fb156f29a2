"""Runs inside the sandbox and holds nothing worth stealing: it calls a submitted function with the tensors that the
judge sends, and sends back what came out. What is right, it does not know.

The judge talks to it over two pipes, in frames of JSON and safetensors. This process imports torch once; for every
exercise it forks a child, which confines itself before it runs a line of the submission. The judge trusts no answer:
a submission can make its own child say anything, but only the right numbers are worth points.
"""

import ctypes
import gc
import inspect
import json
import linecache
import os
import platform
import resource
import signal
import struct
import sys
import time
import types
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

HEAD = struct.Struct("<II")  # length of the JSON, length of the tensors
LOSSES = ("compute_policy_loss", "compute_value_loss", "compute_entropy_loss")
SOLUTION = "<solution>"
LONGEST_TEXT, LARGEST_RESULT = 300, 100_000  # characters, numbers


# ---------------------------------------------------------------- frames


def write_frame(file, message: dict, tensors: dict[str, Tensor]) -> None:
    text, data = json.dumps(message).encode(), save(tensors)
    file.write(HEAD.pack(len(text), len(data)) + text + data)
    file.flush()


def read_frame(file) -> tuple[dict, dict[str, Tensor]]:
    head = file.read(HEAD.size)
    if len(head) < HEAD.size:
        raise EOFError
    text, data = HEAD.unpack(head)
    return json.loads(file.read(text)), load(file.read(data))


# ---------------------------------------------------------------- one case


def answer(function, case: dict, tensors: dict[str, Tensor]) -> tuple[dict, dict[str, Tensor]]:
    """Runs one case; what came out, described, with its tensors. Exceptions are described too."""
    torch.default_generator.manual_seed(case["seed"])  # torch's own function would look for accelerators each time
    try:
        with torch.enable_grad():
            return (run_epoch if case["kind"] == "epoch" else run_call)(function, case, tensors)
    except BaseException as error:  # sys.exit() and KeyboardInterrupt are answers like any other
        return {"error": describe_error(error)}, {}


def run_call(function, case: dict, tensors: dict[str, Tensor]) -> tuple[dict, dict[str, Tensor]]:
    """Calls with positional arguments: tensors by name, numbers as they are; case["wrt"] names those to differentiate
    the first result by."""
    leaves = [tensors[name].requires_grad_() for name in case["wrt"]]
    tensors |= {name: leaf.clone() for name, leaf in zip(case["wrt"], leaves)}  # computed, as in training
    result = function(*(tensors[arg] if isinstance(arg, str) else arg for arg in case["args"]))
    several = isinstance(result, (tuple, list))
    parts, found = list(result)[:8] if several else [result], {}
    told = {"several": several, "parts": [describe(part, f"out{i}", found) for i, part in enumerate(parts)]}
    describe_inputs(tensors, found)
    if case["wrt"] and isinstance(parts[0], Tensor) and parts[0].requires_grad:
        gradients = torch.autograd.grad(parts[0], leaves, allow_unused=True)
        told["gradients"] = [describe(g, f"grad{i}", found) for i, g in enumerate(gradients)]
    return told, found


def describe(value, name: str, found: dict[str, Tensor]) -> dict:
    """A value's kind; a tensor of a reasonable size is put into `found`."""
    if isinstance(value, Tensor):
        if value.numel() <= LARGEST_RESULT and not value.is_complex():
            found[name] = value.detach().to_dense().clone().contiguous()
        return {"kind": "tensor", "requires_grad": value.requires_grad}
    if isinstance(value, (int, float)):
        return {"kind": "float" if isinstance(value, float) else type(value).__name__, "value": float(value)}
    return {"kind": type(value).__name__[:LONGEST_TEXT]}


def describe_inputs(tensors: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    """Puts the inputs as they are after the call into `found`: whether they have changed, the judge sees for itself."""
    for name, tensor in tensors.items():
        describe(tensor, f"after.{name}", found)


def describe_error(error: BaseException) -> dict:
    """Type, message and the last line of the submission's own code that it passed through."""
    line, frame = None, error.__traceback__
    while frame:
        if frame.tb_frame.f_code.co_filename == SOLUTION:
            line = frame.tb_lineno
        frame = frame.tb_next
    return {"type": type(error).__name__[:LONGEST_TEXT], "message": str(error)[:LONGEST_TEXT], "line": line}


# ---------------------------------------------------------------- exercise 5: an epoch on a small actor


class Actor(nn.Module):
    """A causal model in a few lines. `flat`: its outputs are a row's own but the same at every position, so that a
    mistake about positions leaves them alone."""

    def __init__(self, embedding: Tensor, logits: Tensor, values: Tensor, flat: bool):
        super().__init__()
        self.embedding, self.logits, self.values = map(nn.Parameter, (embedding, logits, values))
        self.flat, self.calls = flat, []

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """(b, T) tokens and mask -> logits (b, T, V), values (b, T)"""
        self.calls.append(input_ids.detach().clone())
        if self.flat:  # the largest token is the row's own, in its prompt
            hidden = self.embedding[input_ids.amax(1, keepdim=True).expand_as(input_ids)]
        else:
            embedded = self.embedding[input_ids] * attention_mask.unsqueeze(-1)  # (b, T, H)
            hidden = embedded + embedded.cumsum(1) / attention_mask.cumsum(1).clamp(min=1).unsqueeze(-1)
        hidden = hidden.tanh()
        return hidden @ self.logits, hidden @ self.values


def descent(actor: nn.Module, rate: float, kept: float) -> torch.optim.Optimizer:
    """Gradient descent that leaves this share of all parameters after each step: so one without gradients shows too."""

    @torch.no_grad()
    def shrink(*_) -> None:
        for parameter in actor.parameters():
            parameter *= kept

    *body, head = actor.parameters()
    optimizer = torch.optim.SGD([{"params": body}, {"params": [head]}], lr=rate)  # two groups, as the trainer's
    optimizer.register_step_post_hook(shrink)
    return optimizer


def mean_on(mask: Tensor, numbers: Tensor) -> Tensor:
    return (numbers * mask).sum() / mask.sum().clamp(min=1)


def stand_in_policy_loss(log_probs_new, log_probs_old, advantages, response_mask, clip_ratio):
    far = log_probs_new - log_probs_old
    loss = -mean_on(response_mask, log_probs_new * advantages - clip_ratio * far**2)
    return loss, mean_on(response_mask, far.detach().tanh()), mean_on(response_mask, -far.detach())


def stand_in_value_loss(values_new, values_old, returns, response_mask, clip_range_value):
    far = values_new - values_old
    loss = mean_on(response_mask, (values_new - returns) ** 2 + clip_range_value * far**2)
    return loss, mean_on(response_mask, far.detach().tanh())


def stand_in_entropy_loss(logits_new, response_mask):
    return mean_on(response_mask, logits_new.mean(-1) - logits_new.logsumexp(-1))  # below 0, as the real one


STAND_INS = (stand_in_policy_loss, stand_in_value_loss, stand_in_entropy_loss)
CALLS: dict[str, list[inspect.BoundArguments]] = {name: [] for name in LOSSES}  # of the epoch that runs


def recorded(name: str, loss):
    signature = inspect.signature(loss)

    def call(*args, **named):
        CALLS[name].append(signature.bind(*args, **named))
        return loss(*args, **named)

    return call


RECORDED = dict(zip(LOSSES, map(recorded, LOSSES, STAND_INS)))


def run_epoch(function, case: dict, tensors: dict[str, Tensor]) -> tuple[dict, dict[str, Tensor]]:
    """One run_ppo_update_epoch with stand-in losses, so that exercises 1 to 3 do not matter; what each loss was given
    in the last call, the actor's inputs and what became of its parameters."""
    actor = Actor(*(tensors.pop(name) for name in ("embedding", "logits", "actor_values")), case["flat"])  # type: ignore[call-arg]
    buffer = dict(sorted(tensors.items()))  # whatever order the frame had
    optimizer, rates = descent(actor, 1.0, case["kept"]), case["rates"]
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rates[min(step, len(rates) - 1)])
    for calls in CALLS.values():
        calls.clear()
    inspect.unwrap(function).__globals__.update(RECORDED)
    ppo, names = SimpleNamespace(**case["ppo"]), list(buffer)
    torch.rand(case["drawn"])  # as whoever sampled a rollout since the seed was set
    result = function(actor, optimizer, scheduler, buffer, SimpleNamespace(ppo=ppo), torch.device("cpu"))
    drawn_next = torch.rand(4).tolist()
    as_it_was = bool(vars(ppo) == case["ppo"] and list(buffer) == names and torch.is_grad_enabled())
    if case["one_step_more"]:
        one_step_more(actor, optimizer)
    found = {name: parameter.detach().clone() for name, parameter in actor.named_parameters()}
    describe_inputs(buffer, found)
    found |= {f"call{i}": ids for i, ids in enumerate(actor.calls[:64])}
    given = {name: describe_call(name, found) for name in LOSSES}
    metrics = result if isinstance(result, dict) else {}
    return {
        "kind": "dict" if isinstance(result, dict) else type(result).__name__,
        "calls": len(actor.calls),
        "as_it_was": as_it_was,
        "drawn_next": drawn_next,
        "given": given,
        "metrics": {
            str(name)[:60]: describe(value, f"metric.{str(name)[:60]}", found)
            for name, value in list(metrics.items())[:40]
        },
    }, found


@torch.enable_grad()
def one_step_more(actor: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """A step after the epoch, of the sum of all parameters. It takes along what the epoch has left behind, gradients
    that were not set back and the scheduler's last step, so both show in the parameters."""
    sum(parameter.sum() for parameter in actor.parameters()).backward()
    optimizer.step()


def describe_call(loss: str, found: dict[str, Tensor]) -> dict[str, dict]:
    """The arguments of a loss's last call, by name."""
    given = CALLS[loss][-1].arguments if CALLS[loss] else {}
    return {name: describe(value, f"{loss}.{name}", found) for name, value in given.items()}


# ---------------------------------------------------------------- the submission's process


def load_function(source: str, key: str, name: str):
    """The function of an exported module, run as a member of a package that has the stand-in losses."""
    package = sys.modules["submission"] = types.ModuleType("submission")
    package.__path__ = []
    for module_name, (loss_name, loss) in zip(("policy_loss", "value_loss", "entropy"), RECORDED.items()):
        module = sys.modules[f"submission.{module_name}"] = types.ModuleType(f"submission.{module_name}")
        setattr(module, loss_name, loss)
    module = sys.modules[f"submission.{key}"] = types.ModuleType(f"submission.{key}")
    module.__package__ = "submission"
    linecache.cache[SOLUTION] = len(source), None, source.splitlines(keepends=True), SOLUTION  # for torch.jit.script
    exec(compile(source, SOLUTION, "exec"), module.__dict__)
    return getattr(module, name)


def confine(limits: dict[str, int]) -> None:
    """Takes from this process for good: memory, CPU time, files, other processes, sockets.

    limits: of setrlimit, by name; AS is counted from what is mapped already, of which torch alone takes gigabytes.
    """
    for name, limit in limits.items():
        if name == "AS":
            limit += int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))
    forbid_system_calls()


# Linux's numbers on x86_64 and on aarch64, which has no fork and no vfork.
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column below, what the kernel calls it
CLONE, PRLIMIT, MMAP, FCNTL, PRCTL, IOCTL = (56, 220), (302, 261), (9, 222), (72, 25), (157, 167), (16, 29)
CLOSE_RANGE, CLOSE_RANGE_UNSHARE = (436, 436), 2
REFUSED = {
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "io_uring_setup": (425, 425),
    "pidfd_open": (434, 434),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # Memory that is held without being mapped, which RLIMIT_AS does not count.
    "shmget": (29, 194),
    "shmat": (30, 196),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "vmsplice": (278, 75),
    "splice": (275, 76),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "tee": (276, 77),
    "landlock_create_ruleset": (444, 444),
    # Of /dev/null and others like it, which are the machine's own, and root's: nobody could open them any more.
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "lchown": (94, None),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "file_setattr": (469, 469),
    # Of what one user may have, and the grader is that user.
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
    "io_setup": (206, 0),
    # Of files and disks that everybody uses: Python's own are in the sandbox.
    "flock": (73, 32),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "sync": (162, 81),
    "syncfs": (306, 267),
    "fsync": (74, 82),
    "fdatasync": (75, 83),
    # Of the process that goes on as well: the next exercise would have what time others leave.
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    "sched_setaffinity": (203, 122),
    "seccomp": (317, 277),  # a filter of its own could have every call of its written into the machine's log
    "fork": (57, None),
    "vfork": (58, None),
}
CLONE3, CLONE_THREAD, CLONE_FILES, MAP_SHARED = 435, 0x10000, 0x400, 0x01
LOCKS = 6, 7, 37, 38, 1024  # F_SETLK, F_SETLKW, both of F_OFD_, and F_SETLEASE
PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_THP_DISABLE, TIOCSETD = 4, 22, 41, 0x5423
EPERM, ENOSYS = 1, 38


def forbid_system_calls() -> None:
    """A seccomp filter (classic BPF): threads may start, processes and sockets may not. Does nothing on processors
    whose numbers it does not know: the namespaces and limits hold there too."""
    if platform.machine() not in ARCHITECTURES:
        return
    column, architecture = ARCHITECTURES[platform.machine()]
    load_word, equal, at_least, has_bits, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, refuse, unknown = 0x7FFF0000, 0x00050000 | EPERM, 0x00050000 | ENOSYS

    def by_argument(call: tuple[int, int], argument: int, test: int, *values: int, refused: bool) -> list[tuple]:
        """Refuses a call where this argument passes the test with one of the values, or with none, and else allows
        it."""
        passes, fails = (refuse, allow) if refused else (allow, refuse)
        return [
            (equal, 0, len(values) + 3, call[column]),
            (load_word, 0, 0, 16 + 8 * argument),
            *((test, len(values) - number, 0, value) for number, value in enumerate(values)),
            (give, 0, 0, fails),
            (give, 0, 0, passes),
        ]

    program = [
        (load_word, 0, 0, 4),
        (equal, 1, 0, architecture),
        (give, 0, 0, refuse),
        (load_word, 0, 0, 0),
        (at_least, 0, 1, 0x40000000),
        (give, 0, 0, refuse),
        (equal, 0, 1, CLONE3),
        (give, 0, 0, unknown),  # its flags are out of sight: glibc goes back to clone
        # Threads, with the open files of all: one that had its own would not be held to the limit on them.
        (equal, 0, 5, CLONE[column]),
        (load_word, 0, 0, 16),
        (has_bits, 0, 2, CLONE_THREAD),
        (has_bits, 0, 1, CLONE_FILES),
        (give, 0, 0, allow),
        (give, 0, 0, refuse),
        *by_argument(PRLIMIT, 0, equal, 0, refused=False),  # its own limits, no other process's
        # Shared pages stay when all of them but one are unmapped, and are not counted.
        *by_argument(MMAP, 3, has_bits, MAP_SHARED, refused=True),
        # Whoever opens a file that is leased waits for the lease, for most of a minute.
        *by_argument(FCNTL, 1, equal, *LOCKS, refused=True),
        # A crash would be written down by the machine's own program for that. Huge pages: 4 KB that are mapped of one
        # hold all its 2 MB, and are counted.
        *by_argument(PRCTL, 0, equal, PR_SET_DUMPABLE, PR_SET_THP_DISABLE, PR_SET_SECCOMP, refused=True),
        # As clone without CLONE_FILES: each thread would have as many open files as the process may.
        *by_argument(CLOSE_RANGE, 2, has_bits, CLOSE_RANGE_UNSHARE, refused=True),
        *by_argument(IOCTL, 1, equal, TIOCSETD, refused=True),  # of a terminal: it would load a part of the kernel
    ]
    for numbers in REFUSED.values():
        if numbers[column] is not None:
            program += [(equal, 0, 1, numbers[column]), (give, 0, 0, refuse)]
    code = b"".join(struct.pack("<HBBI", *line) for line in [*program, (give, 0, 0, allow)])
    buffer = ctypes.create_string_buffer(code)
    filter_program = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 38, 2
    libc.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filter_program):
        raise OSError(ctypes.get_errno(), "the system-call filter could not be set")


def serve(load_request: dict, requests, answers) -> None:
    """The child: loads the submission, then answers cases until its parent ends it."""
    if sys.platform == "linux":
        confine(load_request["limits"])
    try:
        function = load_function(load_request["source"], load_request["key"], load_request["function"])
    except BaseException as error:
        write_frame(answers, {"error": describe_error(error)}, {})
        read_frame(requests)
        return
    write_frame(answers, {"loaded": True}, {})
    while True:
        write_frame(answers, *answer(function, *read_frame(requests)))


def fork(request: dict, *closed):
    """Starts the process of one exercise: its id, the pipe to it and the pipe from it. It has pipes of its own and
    `closed` closed, or it could go on speaking in the place of the processes after it."""
    its_questions, questions = os.pipe()
    replies, its_replies = os.pipe()
    gc.freeze()  # or each gc.collect() of a solution goes through all that torch's import made
    child = os.fork()
    if child == 0:
        try:
            for file in closed:
                file.close()
            os.close(questions)
            os.close(replies)
            serve(request, os.fdopen(its_questions, "rb"), os.fdopen(its_replies, "wb"))
        finally:
            os._exit(0)
    os.close(its_questions)
    os.close(its_replies)
    return child, os.fdopen(questions, "wb", 0), os.fdopen(replies, "rb", 0)


def relay_until_the_end(child: int, questions, replies, requests, answers) -> dict[str, bool]:
    """Carries cases to the child and its answers back, unread. Whatever else the judge says ends the child: it never
    hears what is meant for this process, or for the child after it. Returns what is to be said of its end; it is
    "killed" where a limit or the machine did that, since the child itself may send no signal."""
    patience = 1.0  # seconds, with a child that has closed its pipe: most often it is about to end
    while relay(replies, answers):
        message, tensors = read_frame(requests)
        if message["kind"] not in ("call", "epoch"):
            patience = 0.0
            break
        try:
            write_frame(questions, message, tensors)
        except BrokenPipeError:
            break
    until = time.monotonic() + patience
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < until:
        time.sleep(0.01)
    if ended == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    questions.close()
    replies.close()
    killed = os.WIFSIGNALED(ended[1]) and os.WTERMSIG(ended[1]) == signal.SIGKILL
    return {"ended": True} | ({"killed": True} if killed else {})


def relay(source, target) -> bool:
    """One frame. False: there is none; a frame that breaks off ends this process, or the judge would wait for it."""
    head = exactly(source, HEAD.size)
    if len(head) < HEAD.size:
        return False
    target.write(head)
    target.flush()  # a length that is too large is for the judge to refuse
    left = sum(HEAD.unpack(head))
    while left:
        piece = source.read(min(left, 1 << 16))
        if not piece:
            os._exit(1)
        target.write(piece)
        left -= len(piece)
    target.flush()
    return True


def exactly(source, count: int) -> bytes:
    """Less at the end of the file only."""
    found = b""
    while len(found) < count and (piece := source.read(count - len(found))):
        found += piece
    return found


def new_scratch(at_first: set[str]) -> bool:
    """Whether the working folder is as each exercise may expect it: its own to use, and with no more in it than
    `at_first`."""
    if not os.access(".", os.R_OK | os.W_OK | os.X_OK):
        return False
    with os.scandir(".") as entries:  # of a million files the first will do
        return all(entry.name in at_first for entry in entries)


def main() -> None:
    """Waits for submissions, one child each, and says how each child ended."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):  # a print must not get between the frames
        os.dup2(nowhere, standard)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # which the first process of a namespace does not get from inside
    torch.set_num_threads(1)
    os.environ["TORCHDYNAMO_DISABLE"] = "1"  # torch.compile would start a compiler: what it is put around runs as it is
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0)  # a child may not write into this process's memory
    at_first = set(os.listdir("."))  # nothing, unless this Python lies somewhere in /tmp
    write_frame(answers, {"ready": True}, {})
    while True:
        try:
            request, _ = read_frame(requests)
        except EOFError:
            return
        if request["kind"] != "load":  # "ping": whether all is as it was; "end": the child had died
            as_it_was = "nonce" in request and new_scratch(at_first)
            write_frame(answers, {"pong": request["nonce"]} if as_it_was else {"ended": True}, {})
            continue
        if request["key"] == "minibatch_update":  # its first optimizer imports much: do it once
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = "."  # or that leaves a folder of its own here
            torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        child, questions, replies = fork(request, requests, answers)
        write_frame(answers, relay_until_the_end(child, questions, replies, requests, answers), {})


if __name__ == "__main__":
    main()
