"""The Gymnasium environment: tokens in, text scored, rewards out. Importing it registers the `textenv/...` ids."""

from textenv.ended import Ended, Scored
from textenv.registration import make_vec, register_environments
from textenv.scalar_env import TextEnv
from textenv.settings import EnvSettings
from textenv.stopping import StopSpec
from textenv.tasks import load_task
from textenv.tokenizer import Tokenizer, load_tokenizer
from textenv.types import FinishReason, Problem, Task
from textenv.vector_env import FinishedRow, StepMany, TextVectorEnv

__all__ = [
    "Ended",
    "EnvSettings",
    "FinishReason",
    "FinishedRow",
    "Problem",
    "Scored",
    "StepMany",
    "StopSpec",
    "Task",
    "TextEnv",
    "TextVectorEnv",
    "Tokenizer",
    "load_task",
    "load_tokenizer",
    "make_vec",
]

register_environments()
