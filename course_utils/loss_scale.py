"""Loss scaling for float16, out of sight of the learner's code.

Gradients of a float16 pass are often below float16's smallest number (6e-8) and vanish. The remedy (Micikevicius et
al. 2018, section 3.2) is to multiply the loss before the backward pass and to divide the weights' gradients after it.
Here both happen inside the graph, so that `loss.backward()` and `optimizer.step()` stay as they are on a single CPU:
what flows back into the model is multiplied, and what reaches a weight, which is float32, is divided.
"""

from torch import Tensor, nn

LARGEST, STEPS_TO_DOUBLE = 2.0**16, 200


class LossScale:
    """Scales the gradients inside `model`'s backward pass by `value`, which adapts: a step in which a gradient
    overflowed is left out and halves it, 200 good steps in a row double it."""

    def __init__(self, model: nn.Module):
        self.value, self.skipped, self._good = LARGEST, 0, 0
        self._overflow: Tensor | None = None
        for weight in model.parameters():
            if weight.requires_grad:
                weight.register_hook(self._unscale)

    def scale(self, output: Tensor) -> Tensor:
        """`output` itself; its gradient arrives multiplied."""
        if output.requires_grad:
            output = output.view_as(output)  # a tensor of its own, or the hook would see the caller's other uses
            output.register_hook(lambda gradient: gradient * self.value)
        return output

    def _unscale(self, gradient: Tensor) -> Tensor:
        """Without waiting for the GPU: whether all is finite is asked once a step, in overflowed()."""
        bad = ~gradient.isfinite().all()
        self._overflow = bad if self._overflow is None else self._overflow | bad
        return (gradient / self.value).nan_to_num(0.0, 0.0, 0.0)

    def overflowed(self, any_process=bool) -> bool:
        """Whether a gradient since the last call was not finite; the scale follows. To be asked before each step.

        Args:
            any_process: from this process's answer to that of all processes.
        """
        bad = any_process(self._overflow is not None and self._overflow.item())
        self._overflow, self._good = None, 0 if bad else self._good + 1
        if bad:
            self.value, self.skipped = self.value / 2, self.skipped + 1
        elif self._good % STEPS_TO_DOUBLE == 0:
            self.value = min(LARGEST, self.value * 2)
        return bad

    def state_dict(self) -> dict:
        """What a checkpoint keeps, so that a resumed run skips and doubles where an uninterrupted one would."""
        return {"value": self.value, "skipped": self.skipped, "good": self._good}

    def load_state_dict(self, state: dict) -> None:
        self.value, self.skipped, self._good = state["value"], state["skipped"], state["good"]
