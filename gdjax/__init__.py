"""gdjax: gradient descent in JAX, from a loss to a minimum."""

from gdjax.rule import Rule as Rule, chain as chain, eval_params as eval_params, rule as rule
