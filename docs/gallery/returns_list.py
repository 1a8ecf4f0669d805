"""Written as in many tutorials: a loop over Python lists, one episode after another."""


def compute_returns(rewards, dones, next_value, gamma=0.99):
    returns = []
    R = next_value
    for step in reversed(range(len(rewards))):
        R = rewards[step] + gamma * R
        returns.insert(0, R)
    return returns
