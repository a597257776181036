"""The training as Lightning's loop sees it: networks, objective, phases, optimiser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning
import torch
import torch.distributed
from torch import Tensor

from CycleRegLib.errors import CycleRegError
from CycleRegLib.networks import RegistrationNetwork

from .config import Config
from .networks import build_networks
from .objectives import Phase, build_objective
from .schedule import learning_rate_factor
from .small_features import guard_small_features
from .synthetic.chance import mixed
from .validation import field_measures

_NAMED_PAIRS = 8


class Diverged(CycleRegError):
    """The loss or a gradient is no number any more."""


class TrainingModule(lightning.LightningModule):
    """Trains the networks of a method to its objective.

    What is random in a step depends on the seed, the epoch, the batch and the process, and the learning rate is a
    function of the step; a resumed training needs no more than weights and moments.

    Parameters
    ----------
    config
        Of the training.

    Raises
    ------
    InputError
        As :func:`~cyclereg_training.objectives.build_objective` and
        :func:`~cyclereg_training.networks.build_networks`.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        settings = dict(config.objective)
        self.objective_name = settings.pop("name", None) or config.method
        self.objective = build_objective(self.objective_name, settings)
        # Attributes of their own: a ModuleDict can have no "forward".
        for direction, network in build_networks(config, self.objective).items():
            if config.trainer.channels_last:
                network.to(memory_format=_channels_last(network.dimension))
            guard_small_features(network)
            setattr(self, f"{direction}_network", network)
        self.phase: Phase = self.objective.phases[0]
        self._begun: Phase | None = None

    @property
    def networks(self) -> dict[str, RegistrationNetwork]:
        """By direction, as objectives and checkpoints have them."""
        return {direction: getattr(self, f"{direction}_network") for direction in self.objective.directions}

    @property
    def dimension(self) -> int:
        """Of the images, 2 or 3."""
        return self.networks["forward"].dimension

    def description(self) -> dict[str, Any]:
        """What a checkpoint must share to be resumed: method, networks, objective."""
        return {
            "method": self.config.method,
            "network": self.networks["forward"].configuration,
            "objective": self.objective_name,
            "directions": list(self.objective.directions),
        }

    # ------------------------------------------------------------------ phases, seeds, learning rate

    def on_train_epoch_start(self) -> None:
        self.phase = self.objective.phase_at(self.current_epoch)
        if self.phase is not self._begun:
            self.phase.begin(self.networks)
            self._begun = self.phase

    def configure_optimizers(self) -> torch.optim.Optimizer:
        settings = self.config.optimizer
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.name]
        return kind(
            self.parameters(),
            lr=settings.lr,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
        )

    def learning_rate(self, step: int, epoch: int) -> float:
        """At a step of an epoch, both counted from 0, in the present phase."""
        total = self.config.optimizer.total_steps or int(min(self.trainer.estimated_stepping_batches, 2**62))
        factor = learning_rate_factor(self.config.optimizer, step, epoch, total)
        return (self.phase.learning_rate or self.config.optimizer.lr) * factor

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        rate = self.learning_rate(self.global_step, self.current_epoch)
        for group in self.optimizers().optimizer.param_groups:
            group["lr"] = rate
        self.log("lr", rate)
        # Not once an epoch: loaders draw numbers too, and a resumed training begins its loader at another time.
        torch.manual_seed(mixed(self.config.seed, 6, self.current_epoch, batch_idx, self.global_rank))

    # ------------------------------------------------------------------ steps

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        terms = self.objective(self.networks, batch, self.phase)
        self._check_finite(terms, batch, batch_idx)
        several = self.trainer.world_size > 1
        self.log_dict(
            {f"train/{name}": value.detach() for name, value in terms.items()},
            sync_dist=several,
            batch_size=batch["fixed"].shape[0],
        )
        return terms["loss"]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
        # With float16 the scaler finds steps whose gradients overflow, and leaves them out.
        if self.config.trainer.precision != "16-mixed" and not bool(norm.isfinite()):
            place = f"epoch {self.current_epoch + 1}, step {self.global_step + 1}"
            raise Diverged(f"The gradient is not finite in {place}. {self._advice()}")
        self.log("train/gradient", norm)

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mixed(self.config.seed, 7, batch_idx))
            terms = self.objective(self.networks, batch, self.phase)
        found = {"loss": terms["loss"]}
        flow = self.objective.estimate(self.networks, batch["moving"], batch["fixed"]).float()
        found.update(field_measures(flow, batch))
        self.log_dict(
            {f"val/{name}": value for name, value in found.items()},
            on_step=False,
            on_epoch=True,
            sync_dist=self.trainer.world_size > 1,
            batch_size=batch["fixed"].shape[0],
        )

    def _check_finite(self, terms: Mapping[str, Tensor], batch: Mapping[str, Any], batch_idx: int) -> None:
        good = terms["loss"].detach().isfinite().all()
        if self.trainer.world_size > 1:
            # All processes stop together; one alone would leave the others waiting for it.
            everywhere = good.float()
            torch.distributed.all_reduce(everywhere, torch.distributed.ReduceOp.MIN)
            if not bool(everywhere) and bool(good):
                raise Diverged(f"The loss of another process is not finite. {self._advice()}")
        if not bool(good):
            values = ", ".join(f"{name} {float(value.detach()):g}" for name, value in terms.items())
            place = f"epoch {self.current_epoch + 1}, batch {batch_idx + 1}{_named(batch)}"
            raise Diverged(f"The loss is not finite ({values}) in {place}. {self._advice()}")

    def _advice(self) -> str:
        kept = "The checkpoints of the last epoch are kept." if self.current_epoch else "Nothing was learnt yet."
        return f"{kept} Look at that batch, or try a smaller optimizer.lr or trainer.gradient_clip_val=1."

    # ------------------------------------------------------------------ checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["cyclereg"] = {**self.description(), "config": self.config.to_dict()}


def _channels_last(dimension: int) -> torch.memory_format:
    return torch.channels_last_3d if dimension == 3 else torch.channels_last


def _named(batch: Mapping[str, Any]) -> str:
    """Which pairs a batch holds, as far as it says."""
    names = batch.get("name", batch.get("index"))
    if names is None:
        return ""
    names = names.tolist() if isinstance(names, Tensor) else list(names)
    more = f" and {len(names) - _NAMED_PAIRS} more" if len(names) > _NAMED_PAIRS else ""
    return f" (pairs {', '.join(str(name) for name in names[:_NAMED_PAIRS])}{more})"
