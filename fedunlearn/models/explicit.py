"""Loss and gradients written out, for models so small that autograd would cost more than their arithmetic."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LinearGradient:
    """Gradient of a dense layer y = W x + b over a batch, kept as its two factors.

    The gradient of W is outputs^T inputs, that of b the sum of the rows of ``outputs``. For a batch that is
    small beside the layer, the factors take less time to measure and to add than the product.

    Attributes:
        inputs: [b, inputs] float32, what the layer received.
        outputs: [b, outputs] float32, gradient of the loss with respect to what it returned.
    """

    inputs: Tensor
    outputs: Tensor

    @property
    def sum_of_squares(self) -> float:
        """Squared L2 norm of the gradient of W and b together, in float64.

        It is sum_ij (x_i . x_j + 1) (d_i . d_j), where x are the inputs, d the output gradients and 1 is the
        bias's part.
        """
        inputs, outputs = self.inputs.double(), self.outputs.double()
        products = torch.mm(inputs, inputs.T).add_(1.0).mul_(torch.mm(outputs, outputs.T))
        return max(0.0, float(products.sum()))

    def add_to(self, weight: Tensor, bias: Tensor, keep: float, scale: float) -> None:
        """Replace two tensors in place by ``keep`` times themselves plus ``scale`` times the gradient.

        Args:
            weight: [outputs, inputs].
            bias: [outputs].
            keep: factor of the old values.
            scale: factor of the gradient.
        """
        weight.addmm_(self.outputs.T, self.inputs, beta=keep, alpha=scale)
        bias.mul_(keep).add_(self.outputs.sum(0), alpha=scale)


class ExplicitGradients(ABC):
    """The loss and its gradients for some examples, without autograd.

    Attributes:
        inputs: [n, D] float32, what the first layer receives of each example. Mixtures of examples and noise
            can be added here: ``feature_noise`` is in this unit.
        weights: weight and bias of each layer in turn: all trained weights, to be changed in place.
    """

    inputs: Tensor
    weights: list[Tensor]

    @abstractmethod
    def loss_and_gradients(self, inputs: Tensor, targets: Tensor) -> tuple[float, list[LinearGradient]]:
        """Compute the mean cross-entropy of a batch in training mode, and its gradients.

        Args:
            inputs: [b, D], rows of ``inputs``, or mixtures of them.
            targets: [b, C] float32, distributions over the classes.

        Returns:
            The loss in nats, and the gradients of the layers in turn.
        """
