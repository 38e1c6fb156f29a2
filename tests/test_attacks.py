"""Submissions that try to earn points without a right answer, or to do harm. None earns one, none outlives its verdict,
and an honest submission that is judged after it, in the same sandbox, is judged as ever.

Damaged notebooks are in test_submission.py; what the sandbox forbids, call by call, in test_sandbox.py.
"""

import shutil
import textwrap
import threading
from pathlib import Path

import pytest

from autograder import judge
from autograder.sandbox import Worker
from course_utils.exercises import EXERCISES
from course_utils.export import header
from tests.process_tree import all_gone, tree
from tests.solutions import solution_source

pytestmark = pytest.mark.skipif(not shutil.which("bwrap"), reason="bubblewrap is not installed")
WRONG = "log_probs_new.sum() * 0, log_probs_new.new_zeros(()), log_probs_new.new_zeros(())"


def cell(body: str, before: str = "") -> str:
    """A solution cell of exercise 1 with this body, behind `before` at its top."""
    head = "def compute_policy_loss(log_probs_new, log_probs_old, advantages, response_mask, clip_ratio):\n"
    return textwrap.dedent(before) + "\n" + head + textwrap.indent(textwrap.dedent(body).strip(), "    ") + "\n"


AT_THE_TOP = {  # what it does before it gives a wrong answer
    "torch.allclose says yes": "torch.allclose = torch.equal = torch.isclose = lambda *a, **k: True",
    "testing.assert_close says nothing": "torch.testing.assert_close = lambda *a, **k: None",
    "tensors equal everything": "Tensor.__eq__ = Tensor.eq = lambda self, other: torch.tensor(True)",
    "differences are zero": "Tensor.__sub__ = Tensor.sub = lambda self, other: torch.zeros_like(self)",
    "numpy says yes": "np.allclose = np.isclose = np.array_equal = lambda *a, **k: True",
    "assert is patched away": "import builtins; builtins.AssertionError = lambda *a: None",
    "json says passed": 'import json; json.dumps = lambda *a, **k: \'{"passed": true, "results": []}\'',
    "the worker's describe": "import __main__; __main__.describe = lambda *a: {'kind': 'tensor'}",
    "the worker's answer": "import __main__; __main__.answer = lambda *a: ({'passed': True}, {})",
    "the worker's frames": "import __main__; __main__.write_frame = lambda *a: None",
    "safetensors is shadowed": "import sys; sys.modules['safetensors.torch'] = sys.modules['json']",
    "an import hook": "import sys; sys.meta_path.insert(0, type('H', (), {'find_spec': lambda *a: None})())",
    "a trace function": "import sys; sys.settrace(lambda *a: None); sys.setprofile(lambda *a: None)",
    "atexit": "import atexit, os; atexit.register(lambda: os.write(1, b'passed'))",
    "exit hooks": "import sys; sys.excepthook = lambda *a: print('passed')",
    "a thread that goes on": "import threading; threading.Thread(target=lambda: [None for _ in iter(int, 1)]).start()",
    "many threads": """
        import threading, time
        try:
            for _ in range(5000):
                threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        except RuntimeError:
            pass""",
    "files in scratch": """
        try:
            for n in range(100):
                open(f'/tmp/{n}', 'wb').write(bytes(1 << 20))
        except OSError:
            pass""",
    "a flood of output": "import sys; [print('x' * 10**6, file=f) for f in (sys.stdout, sys.stderr) for n in range(9)]",
    "nbgrader's own score": "print('10/10'); score = points = grade = 10",
    "garbage collector": "import gc; [o for o in gc.get_objects() if isinstance(o, dict) and 'wanted' in o]",
    "stack frames": """
        import sys
        frame = sys._getframe()
        while frame:
            frame.f_globals.update(passed=True, CRITERIA=()) if frame.f_globals is not globals() else None
            frame = frame.f_back""",
    "reads the worker": "text = open('/worker.py').read(); assert 'reference.' not in text",
    "recursion limit": "import sys; sys.setrecursionlimit(10**9)",
    "closes every file but the channel": "import os; os.closerange(100, 1000)",
    "default dtype": "torch.set_default_dtype(torch.float16); torch.set_grad_enabled(False)",
    "a class by the function's side": "class Verdict:\n    passed = True\n    results = ()",
}
RETURNS = {  # what it answers with
    "nothing": "return None",
    "true": "return True",
    "ten": "return 10, 10, 10",
    "not a number": "n = torch.tensor(float('nan')); return n, n, n",
    "infinity": "n = torch.tensor(float('inf')); return n, n, n",
    "equal to anything": "class E:\n    __eq__ = lambda *a: True\n    __float__ = lambda s: 0.0\nreturn E(), E(), E()",
    "a tensor that equals anything": """
        class E(Tensor):
            @classmethod
            def __torch_function__(cls, func, types, args=(), kwargs=None):
                return torch.tensor(True)
        e = torch.zeros(()).as_subclass(E)
        return e, e, e""",
    "a huge view": "n = torch.zeros(()).expand(1 << 40); return n, n, n",
    "a million parts": "return (torch.zeros(()),) * 1000000",
    "a generator without end": "import itertools; return itertools.repeat(torch.zeros(()))",
    "sparse": "n = torch.zeros(2, 2).to_sparse(); return n, n, n",
    "meta": "n = torch.zeros((), device='meta'); return n, n, n",
    "complex": "n = torch.zeros((), dtype=torch.complex64); return n, n, n",
    "quantized": "n = torch.quantize_per_tensor(torch.zeros(2), 1.0, 0, torch.quint8); return n, n, n",
    "strings": "return '<script>alert(1)</script>', 'passed', 'passed'",
    "a function": "return lambda: 0",
    "a pickle bomb": "class B:\n    def __reduce__(self): return (print, ('boom',))\nreturn B(), B(), B()",
    "its own arguments": "return log_probs_new, log_probs_old, advantages",
    "a forged gradient": """
        class F(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x): return x.sum() * 0
            @staticmethod
            def backward(ctx, g): return torch.zeros(1)
        return F.apply(log_probs_new), torch.zeros(()), torch.zeros(())""",
    "exit": "import sys; sys.exit(0)",
    "exit at once": "import os; os._exit(0)",
    "an interrupt": "raise KeyboardInterrupt('passed')",
    "a base exception": "raise type('Passed', (BaseException,), {'__str__': lambda s: 1 / 0})()",
    "an odd message": "raise ValueError('\\ud800' * 5 + '<script>' * 100000)",
    "a segmentation fault": "import ctypes; ctypes.string_at(0)",
    "endless recursion": "return compute_policy_loss(*locals().values())",
    "all the memory": "return bytearray(1 << 34)",
    "shared memory": "import mmap; return [mmap.mmap(-1, 1 << 30) for _ in range(100)]",
    "many processes": "import os\nwhile True: os.fork()",
    "frames of its own": """
        import os, struct
        for fd in range(3, 60):
            try: os.write(fd, struct.pack('<II', 15, 10) + b'{"ended": true}' + b'\\x02\\0\\0\\0\\0\\0\\0\\0{}')
            except OSError: pass
        return 0""",
    "the examples of the notebook": "return torch.tensor(0.0875 / 6), torch.tensor(4 / 6), torch.tensor(0.156668)",
}
ATTACKS = {name: cell(f"return {WRONG}", before) for name, before in AT_THE_TOP.items()} | {
    name: cell(body) for name, body in RETURNS.items()
}
HANGS = {
    "for ever, deaf to signals": cell(
        "import signal\nfor n in (*range(1, 9), *range(10, 19), *range(20, 32)):\n"
        "    signal.signal(n, signal.SIG_IGN)\nwhile True: pass"
    ),
    "for ever at its top": "while True: pass\n" + cell("return 0"),
}


@pytest.fixture(scope="module")
def process():
    with Worker() as worker:
        yield worker


def points(process: Worker, key: str, source: str) -> list[str]:
    found = judge.judge_exercise(process, key, header(key) + source, b"secret")
    for result in found.results:
        assert len(result.advice) < 2000
    return [result.criterion for result in found.results if result.passed]


def assert_honest_work_is_judged_as_ever(process: Worker) -> None:
    assert points(process, "entropy", solution_source("entropy")) == list(judge.criteria("entropy"))


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_earns_nothing_and_harms_nobody(process, name, monkeypatch):
    before = {path for path in Path("/tmp").iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(Worker.ask, "__defaults__", (5,))  # some end in silence
        assert points(process, "policy_loss", ATTACKS[name]) == []
    assert_honest_work_is_judged_as_ever(process)
    assert not {path.name for path in Path("/tmp").iterdir() if path not in before and path.name.isdigit()}


@pytest.mark.parametrize("name", HANGS)
def test_a_hang_ends(process, name, monkeypatch):
    monkeypatch.setattr(Worker.ask, "__defaults__", (1,))
    assert points(process, "policy_loss", HANGS[name]) == []
    monkeypatch.undo()
    assert_honest_work_is_judged_as_ever(process)


def test_a_server_on_this_machine_is_out_of_reach(process):
    """Loopback inside is not loopback outside: a listener here hears nothing."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)
        heard = []
        listener = threading.Thread(target=lambda: heard.append(_accepted(server)))
        listener.start()
        talk = cell(f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]})).send(b'x')")
        assert points(process, "policy_loss", talk) == []
        listener.join()
    assert heard == [False]


def _accepted(server) -> bool:
    try:
        server.accept()[0].close()
        return True
    except TimeoutError:
        return False


@pytest.mark.parametrize(
    "body",
    [
        "return {name: 0.0 for name in ('loss/policy', 'loss/value', 'loss/entropy', 'loss/total', "
        "'params/policy_clip_frac', 'params/value_clip_frac', 'params/approx_kl', 'params/grad_norm')}",
        "ids = torch.cat([collated_buffer['prompt_input_ids'], collated_buffer['response_input_ids']], 1)\n"
        "for i in torch.randperm(len(ids)): actor_model(ids[i:i + 1], torch.ones_like(ids[i:i + 1]))\nreturn {}",
        "actor_model.calls.extend([torch.zeros(1, 1)] * 10**6); return {}",
        "for p in actor_model.parameters(): p.data.zero_()\nreturn {}",
        "lr_scheduler.last_epoch = 3; return dict.fromkeys(map(str, range(10**5)), 0.0)",
        "class D(dict):\n    def items(self): return [(object(), object())] * 50\nreturn D()",
        "collated_buffer.clear(); return {}",
    ],
)
def test_an_epoch_that_is_only_played_earns_nothing(process, body):
    head = "def run_ppo_update_epoch(actor_model, optimizer, lr_scheduler, collated_buffer, cfg, device):\n"
    assert points(process, "minibatch_update", head + textwrap.indent(body, "    ")) == []
    assert_honest_work_is_judged_as_ever(process)


PLAYS_THE_WORKER = """
import sys
import __main__ as worker
read = worker.read_frame
def read_frame(file):
    message, tensors = read(file)
    if message["kind"] == "end":
        answers = sys._getframe(1).f_locals["answers"]
        worker.write_frame(answers, {"ended": True}, {})
        while True:
            message, tensors = read(file)
            kind = message["kind"]
            told = {"pong": message["nonce"]} if kind == "ping" else {"loaded": True} if kind == "load" else {}
            worker.write_frame(answers, told, {})
    return message, tensors
worker.read_frame = read_frame
"""

SAYS_THAT_IT_HAS_ENDED = """
import __main__ as worker
def answer(function, case, tensors):
    kind = case["kind"]
    told = {"pong": case["nonce"]} if kind == "ping" else {"loaded": True} if kind == "load" else {"ended": True}
    return told, {}
worker.answer = answer
"""


@pytest.mark.parametrize("plays", [PLAYS_THE_WORKER, SAYS_THAT_IT_HAS_ENDED], ids=["on end", "before the end"])
def test_a_process_that_plays_the_next_exercises_is_not_heard(plays):
    """Their verdicts are kept for whoever hands the same text in."""
    honest = header("entropy") + solution_source("entropy")
    found = judge.judge({"policy_loss": header("policy_loss") + plays + cell("return 0"), "entropy": honest}, b"")
    assert not any(result.passed for result in found["policy_loss"].results)
    assert all(result.passed for result in found["entropy"].results)


@pytest.mark.parametrize(
    "leaves", ["open('/tmp/left', 'w')", "import os; os.chmod('/tmp', 0)", "import os; os.chmod('/tmp', 0o500)"]
)
def test_the_next_exercise_finds_an_empty_folder_of_its_own(leaves):
    """Its verdict is kept for whoever hands the same text in."""
    honest = "import os; assert 'left' not in os.listdir(); open('notes.txt', 'w').write('todo')\n"
    honest += solution_source("entropy")
    found = judge.judge(
        {"policy_loss": header("policy_loss") + cell("return 0", leaves), "entropy": header("entropy") + honest}, b""
    )
    assert not any(result.passed for result in found["policy_loss"].results)
    assert all(result.passed for result in found["entropy"].results)


@pytest.mark.parametrize("name", ["answer", "load_function"])
def test_what_went_wrong_the_judge_says_and_not_the_process(process, name):
    """In its own words a process could tell the learner a hidden input."""
    told = "{'failed': 'it was 0.0625'}, {}"
    says = f"""
import __main__ as worker, sys
worker.answer = lambda *case: ({told})
if {name == "load_function"}:
    frame = sys._getframe()
    while "answers" not in frame.f_locals: frame = frame.f_back
    worker.write_frame(frame.f_locals["answers"], {told})
"""
    found = judge.judge_exercise(process, "policy_loss", header("policy_loss") + says + cell("return 0"), b"")
    assert not any(result.passed or "0.0625" in result.advice for result in found.results)
    assert_honest_work_is_judged_as_ever(process)


def test_a_process_that_does_not_read_is_left_at_its_deadline(process, monkeypatch):
    monkeypatch.setattr(Worker.ask, "__defaults__", (3,))
    deaf = """
import __main__, fcntl, sys, time
def compute_entropy_loss(logits_new, response_mask):
    frame = sys._getframe()
    while "requests" not in frame.f_locals: frame = frame.f_back
    fcntl.fcntl(frame.f_locals["requests"].fileno(), fcntl.F_SETPIPE_SZ, 4096)
    __main__.write_frame(frame.f_locals["answers"], {"several": False, "parts": [{}]}, {})
    time.sleep(1000)
"""
    assert points(process, "entropy", deaf) == []
    monkeypatch.undo()
    assert_honest_work_is_judged_as_ever(process)


def test_words_that_no_file_can_hold_do_not_get_into_a_verdict(process):
    found = judge.judge_exercise(
        process, "policy_loss", header("policy_loss") + cell(r"raise ValueError('\ud800\x1b[2J')"), b""
    )
    for result in found.results:
        result.advice.encode()
        assert "\x1b" not in result.advice


LIES = """
import __main__
torch.equal = lambda *tensors: True
original = __main__.run_epoch
def run_epoch(function, case, tensors):
    told, found = original(function, case, tensors)
    steps = -(-len(tensors["rewards"]) // (case["ppo"]["mini_batch_size"] * case["ppo"]["gradient_accumulation_steps"]))
    return told | {"changed": [], "gradients_left": False, "scheduler_steps": steps}, found
__main__.run_epoch = run_epoch
"""
NOT_LAST = "start + steps < len(mini_batches)"


@pytest.mark.parametrize(
    ("key", "old", "new", "lost"),
    [
        ("policy_loss", "    tokens =", "    advantages *= response_mask\n    tokens =", "worked_example"),
        ("minibatch_update", "    means =", "    collated_buffer['rewards'].zero_()\n    means =", "minibatches"),
        ("minibatch_update", "        lr_scheduler.step()", f"        {NOT_LAST} and lr_scheduler.step()", "step"),
        ("minibatch_update", "        optimizer.zero_grad()", f"        {NOT_LAST} and optimizer.zero_grad()", "step"),
        (
            "minibatch_update",
            "        optimizer.zero_grad()",
            "        optimizer.zero_grad(), optimizer.step()",
            "step",
        ),
    ],
)
def test_what_a_function_leaves_behind_is_seen_whatever_its_process_says(process, key, old, new, lost):
    source = solution_source(key)
    assert source.count(old) == 1
    kept = [criterion for criterion in judge.criteria(key) if criterion != lost]
    assert points(process, key, LIES + source.replace(old, new)) == kept
    assert points(process, key, LIES + source) == list(judge.criteria(key))
    assert_honest_work_is_judged_as_ever(process)


HONEST = {  # exercise -> what honest people leave at the top of its cell, with its name
    "policy_loss": {
        "prints": "print('shape', 3, flush=True)",
        "warnings": "import warnings; warnings.warn('careful')",
        "a type alias": "Loss = tuple[Tensor, Tensor, Tensor]",
    },
    "value_loss": {
        "deprecation on stderr": "import sys; print('DeprecationWarning' * 9999, file=sys.stderr)",
        "logging": "import logging; logging.getLogger().warning('step %d', 1)",
        "assertions": "assert 1 < 2",
    },
    "entropy": {
        "a plot": "try:\n    import matplotlib.pyplot as plt; plt.plot([1, 2])\nexcept ImportError:\n    pass",
        "a doc string": "'''My solution, € and 漢字.'''",
        "no gradients at the top": "with torch.no_grad(): _ = torch.ones(3).sum()",
    },
    "gae": {
        "an unused class": "class Helper:\n    x = 1",
        "a global": "EPSILON = 1e-8\ndef helper(x):\n    return x",
        "time": "import time; started = time.time(); time.sleep(0.01)",
    },
    "minibatch_update": {
        "a seed": "torch.manual_seed(0); np.random.seed(0)",
        "threads": "torch.set_num_threads(1)",
        "a file in the working folder": "open('notes.txt', 'w').write('todo')",
    },
}
ODD = [pytest.param(key, name, id=f"{key}: {name}") for key in HONEST for name in HONEST[key]]


@pytest.mark.parametrize(("key", "name"), ODD)
def test_an_honest_but_odd_cell_keeps_all_points(process, key, name):
    assert points(process, key, f"{HONEST[key][name]}\n{solution_source(key)}") == list(judge.criteria(key))


def test_an_honest_cell_that_ends_with_a_call_keeps_all_points(process):
    call = "x = torch.zeros(1, 2)\nprint(compute_policy_loss(x, x, x, torch.ones(1, 2), 0.2))"
    source = f"{solution_source('policy_loss')}\n{call}"
    assert points(process, "policy_loss", source) == list(judge.criteria("policy_loss"))


def test_the_attacks_are_many():
    assert len(ATTACKS) + len(HANGS) >= 50 and len(ODD) >= 15
    assert HONEST.keys() == EXERCISES.keys() and all(len(names) >= 3 for names in HONEST.values())


def test_nothing_is_left(process):
    """The sandbox holds the worker and nothing else; when it is gone, so is everything in it."""
    assert_honest_work_is_judged_as_ever(process)
    inside = tree(process.process.pid)
    assert len(inside) <= 3  # bubblewrap outside, bubblewrap inside, the worker
    process.stop()
    assert all_gone(inside)
