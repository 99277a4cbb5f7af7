"""Loss and gradients written out, for models so small that autograd would cost more than their arithmetic."""

from abc import ABC, abstractmethod

from torch import Tensor


class ExplicitGradients(ABC):
    """The loss of a model on some examples and its gradients, without autograd.

    Attributes:
        inputs: [n, D] float32, what the first layer receives of each example. Mixtures of examples and noise
            can be added here: ``feature_noise`` is in this unit.
        weights: [P] float32, a copy of all trained weights, to be changed in place.
        gradient: [P] float32, that of the last batch, in the order of ``weights``.
    """

    inputs: Tensor
    weights: Tensor
    gradient: Tensor

    @abstractmethod
    def loss(self, inputs: Tensor, targets: Tensor) -> float:
        """Compute the mean cross-entropy of a batch in training mode, in nats, and its gradient.

        Args:
            inputs: [b, D], rows of ``inputs``, or mixtures of them.
            targets: [b, C] float32, distributions over the classes.
        """

    @abstractmethod
    def parts(self) -> Tensor:
        """Return the part of each row in the last gradient, as the model's tickets note it.

        Returns:
            [b, ``EmotionModel.ticket_size``]
        """

    @abstractmethod
    def finish(self) -> None:
        """Write the weights into the model."""
