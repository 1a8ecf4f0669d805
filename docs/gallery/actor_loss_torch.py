"""An actor's loss that computes its advantage from the critic's output."""


def actor_loss(log_probs, returns, values, entropy, entropy_coef=0.01):
    advantages = returns - values
    return -(log_probs * advantages).mean() + entropy_coef * entropy.mean()
