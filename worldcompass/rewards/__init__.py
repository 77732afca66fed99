"""Critics: one file each. Only the contract is imported here: no critic's needs become everybody's."""

from worldcompass.critic import Critic, Elsewhere

__all__ = ["Critic", "Elsewhere"]
