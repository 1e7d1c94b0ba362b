"""``hydra/launcher=ray``: cells on the workers of a Ray cluster, or of one that is started on this machine.

The plugin of Hydra's own (hydra-ray-launcher 1.2) needs a cloudpickle older than ours, so this is a small one: a task
for each cell, which asks for processors and GPUs and runs Hydra's own ``run_job``. All machines must see the folder of
the sweep under the same path. Left out: starting machines in a cloud, and syncing folders between them.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from retool_env.errors import MissingExtraError

__all__ = ["RayLauncher", "register"]

# Hydra instantiates plugins of the package hydra_plugins only, which is not ours to install into.
_PACKAGE, _NAME = "hydra_plugins", "retool_ray_launcher"
_MODULE = f"{_PACKAGE}.{_NAME}"


class RayLauncher(Launcher):
    """Runs cells as Ray tasks.

    Args:
        address: of a running cluster, ``auto`` on one of its machines; ``None`` starts one here.
        num_cpus: that a cell asks for.
        num_gpus: the same.
    """

    __module__ = _MODULE

    def __init__(self, address: str | None = None, num_cpus: float = 1.0, num_gpus: float = 0.0) -> None:
        self.address, self.num_cpus, self.num_gpus = address, num_cpus, num_gpus

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs and wait for all of them."""
        try:
            import ray
        except ImportError:
            raise MissingExtraError("hydra/launcher=ray", "ray") from None

        setup_globals()
        if not ray.is_initialized():
            ray.init(address=self.address, include_dashboard=False, logging_level=logging.WARNING)
        job = ray.remote(num_cpus=self.num_cpus, num_gpus=self.num_gpus, max_retries=0)(_job)
        # Workers find the plugins themselves: of this one they have no module that a pickle could name.
        state = {kind: one for kind, one in Singleton.get_state().items() if kind is not Plugins}
        common = ray.put((self.hydra_context, self.config, self.task_function, state, str(Path.cwd())))
        jobs = [
            job.remote(common, list(overrides), initial_job_idx + number)
            for number, overrides in enumerate(job_overrides)
        ]
        done: list[JobReturn] = ray.get(jobs)
        return done


def _job(
    common: tuple[HydraContext, DictConfig, TaskFunction, Any, str], overrides: list[str], number: int
) -> JobReturn:
    context, config, task, state, folder = common
    os.chdir(folder)
    setup_globals()
    Singleton.set_state(state)
    composed = context.config_loader.load_sweep_config(config, overrides)
    with open_dict(composed):
        composed.hydra.job.id = composed.hydra.job.num = number
    HydraConfig.instance().set_config(composed)
    return run_job(
        hydra_context=context,
        task_function=task,
        config=composed,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


def register() -> None:
    """Make the launcher known to Hydra, as a module of the package in which it looks for plugins."""
    with contextlib.suppress(ImportError):  # there is none without other plugins
        importlib.import_module(_PACKAGE)
    package = sys.modules.setdefault(_PACKAGE, ModuleType(_PACKAGE))
    module = sys.modules.setdefault(_MODULE, ModuleType(_MODULE))
    vars(module)[RayLauncher.__name__] = RayLauncher
    vars(package)[_NAME] = module
    Plugins.instance().register(RayLauncher)
    node = {"_target_": f"{_MODULE}.{RayLauncher.__name__}", "address": None, "num_cpus": 1.0, "num_gpus": 0.0}
    ConfigStore.instance().store(group="hydra/launcher", name="ray", node=node, provider="retool")
