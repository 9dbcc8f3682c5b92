"""Typed, frozen settings; how recipes, files and flags fill them; the files that ship."""

from pocketvit.config.network import PRESETS, ModelConfig, NetworkConfig, NetworkSizes, ResNetConfig
from pocketvit.config.objectives import ContrastConfig, MAEConfig
from pocketvit.config.parsing import LENGTHS, as_yaml, default_recipe, flat_names, resolve, seconds_of
from pocketvit.config.settings import (
    SPLITTING,
    AugmentConfig,
    DataConfig,
    FinetuneConfig,
    OptimConfig,
    PretrainConfig,
    Settings,
)
from pocketvit.config.shipped import model_path, recipe_path, run_config, shipped_files

__all__ = [
    "LENGTHS",
    "PRESETS",
    "SPLITTING",
    "AugmentConfig",
    "ContrastConfig",
    "DataConfig",
    "FinetuneConfig",
    "MAEConfig",
    "ModelConfig",
    "NetworkConfig",
    "NetworkSizes",
    "OptimConfig",
    "PretrainConfig",
    "ResNetConfig",
    "Settings",
    "as_yaml",
    "default_recipe",
    "flat_names",
    "model_path",
    "recipe_path",
    "resolve",
    "run_config",
    "seconds_of",
    "shipped_files",
]
