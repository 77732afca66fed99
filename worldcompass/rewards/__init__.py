"""Critics, one file each. Only the contract is imported here, so no critic's packages are needed by all."""

from worldcompass.critic import Critic, Elsewhere

__all__ = ["Critic", "Elsewhere"]
