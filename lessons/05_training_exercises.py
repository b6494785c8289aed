# %% [markdown]
# # 05 · Exercises: how does a model learn?
#
# Six exercises, 48 minutes. Replace each `...` by your answer and run the cell: its last line says `passed`, or what is wrong.
# You have as many tries as you like. Difficulty is ●○○, ●●○ or ●●●; hints open with a click. The lesson is
# [here](../notebooks/05_training.ipynb).

# %%
import jax
import jax.numpy as jnp
import optax

from course_lib.checks import training as check

# %% [markdown]
# ## 5.1 A thousand times the loss · 4 min · ●○○
#
# **Predict, then run.** A colleague multiplies the loss by 1000 and changes nothing else. For which optimiser do the
# parameters take the same path as before: `"SGD"`, `"Adam"`, `"both"` or `"neither"`?
#
# And a number: Adam with learning rate 0.02 sees its very first gradient, −250. What is the update, which is *added* to the
# parameter?
#
# <details><summary>Nudge</summary>
#
# What happens to the gradient when the loss is multiplied? What does each optimiser divide by?
#
# </details>
# <details><summary>Outline</summary>
#
# At $t = 1$, after the correction, $\hat m = g$ and $\hat v = g^2$. Put them into Adam's formula.
#
# </details>

# %%
same_path = (
    # BEGIN SOLUTION
    "Adam"
    # END SOLUTION
)
first_update = (
    # BEGIN SOLUTION
    0.02
    # END SOLUTION
)

check.loss_times_1000(same_path, first_update)

# %% [markdown]
# Passed? Then see it happen: call `race()` in a cell of your own. Each optimiser starts at $\theta = 3$ and takes five steps on the
# loss $\theta^2$, and five on 1000 times that loss.

# %%
def five_steps(optimiser, factor):
    theta = jnp.array(3.0)
    state = optimiser.init(theta)
    for _ in range(5):
        update, state = optimiser.update(jax.grad(lambda x: factor * x**2)(theta), state)
        theta = theta + update
    return f"{theta:.3g}"


def race():
    for name, optimiser in {"SGD": optax.sgd(0.02), "Adam": optax.adam(0.02)}.items():
        print(f"{name:4} ends at {five_steps(optimiser, 1)}, with 1000 times the loss at {five_steps(optimiser, 1000)}")

# %% [markdown]
# ## 5.2 Standardise without peeking · 6 min · ●○○
#
# Write `standardise(train, other)`: both arrays, `[rows, features]`, with the mean and the standard deviation of `train`, as a
# pair `(train, other)`. A feature that never varies in `train` has standard deviation 0: divide it by 1 instead, so that no `nan` appears.
#
# <details><summary>Nudge</summary>
#
# One mean a feature: along which axis? And which rows may it look at?
#
# </details>
# <details><summary>Outline</summary>
#
# `mean = train.mean(axis=0)`, the same for `std`; `jnp.where(sd == 0, 1, sd)`; then subtract and divide, twice.
#
# </details>

# %%
def standardise(train, other):
    # BEGIN SOLUTION
    mean, sd = train.mean(axis=0), train.std(axis=0)  # [features] each
    sd = jnp.where(sd == 0, 1, sd)
    return (train - mean) / sd, (other - mean) / sd
    # END SOLUTION


check.standardise(standardise)

# %% [markdown]
# ## 5.3 RMSprop · 8 min · ●●○
#
# The lesson has RMSprop only as a row of a table. Write `rmsprop_update(gradients, v, rate, decay)`. `gradients` and `v` are
# pytrees of one structure. Return the pair of the updates and the new `v`:
#
# $$v \leftarrow \text{decay} \cdot v + (1 - \text{decay})\, g^2 \qquad \text{update} = -\,\text{rate} \cdot \frac{g}{\sqrt{v} + 10^{-8}}$$
#
# <details><summary>Nudge</summary>
#
# It is Adam without $m$ and without the correction. Two `jax.tree.map`, and the second needs the result of the first.
#
# </details>
# <details><summary>Outline</summary>
#
# `v = jax.tree.map(lambda v, g: ..., v, gradients)`, then `updates = jax.tree.map(lambda g, v: ..., gradients, v)`.
#
# </details>

# %%
def rmsprop_update(gradients, v, rate, decay):
    # BEGIN SOLUTION
    v = jax.tree.map(lambda v, g: decay * v + (1 - decay) * g**2, v, gradients)
    updates = jax.tree.map(lambda g, v: -rate * g / (jnp.sqrt(v) + 1e-8), gradients, v)
    return updates, v
    # END SOLUTION


check.rmsprop_update(rmsprop_update)

# %% [markdown]
# ## 5.4 Find the bug in Adam · 10 min · ●●○
#
# A colleague's Adam, for one array. The first step agrees with `optax.adam` to the last digit, so it went into use.

# %%
def broken_adam(gradient, state, rate):
    t, m, v = state
    t = t + 1
    m = 0.9 * m + 0.1 * gradient
    v = 0.999 * v + 0.001 * gradient**2
    m = m / (1 - 0.9**t)
    v = v / (1 - 0.999**t)
    return -rate * m / (jnp.sqrt(v) + 1e-8), (t, m, v)


state = (0, jnp.array(0.0), jnp.array(0.0))
for _ in range(4):
    update, state = broken_adam(jnp.array(1.0), state, 0.1)
    print(f"gradient 1, update {update:.4f}")

# %% [markdown]
# With the same gradient at every step, each update should be −0.1. Write `fixed_adam`, with the same arguments and a state of the
# same form.
#
# <details><summary>Nudge</summary>
#
# Follow `m` by hand through the second call. What does it start from, and what should it start from?
#
# </details>
# <details><summary>Outline</summary>
#
# The correction is for this step's update only. What goes back into the state are the running means as they are.
#
# </details>

# %%
def fixed_adam(gradient, state, rate):
    # BEGIN SOLUTION
    t, m, v = state
    t = t + 1
    m = 0.9 * m + 0.1 * gradient
    v = 0.999 * v + 0.001 * gradient**2
    m_hat = m / (1 - 0.9**t)
    v_hat = v / (1 - 0.999**t)
    return -rate * m_hat / (jnp.sqrt(v_hat) + 1e-8), (t, m, v)
    # END SOLUTION


check.fixed_adam(fixed_adam)

# %% [markdown]
# ## 5.5 When to stop · 8 min · ●●○
#
# Write `early_stopping(losses, patience)`. `losses` are the validation losses, one an epoch, read in order, as training would see them.
# Training stops after the first epoch that is `patience` epochs later than the best so far, and at the last epoch anyway. Return the pair
# `(best, stop)`: the epoch to keep and the epoch after which training stopped, counted from 0. An equal loss is no
# improvement, and neither is `nan`.
#
# With patience 3, the losses 0.9, 0.5, 0.6, **0.4**, 0.5, 0.45, 0.6, 0.55, 0.1 give `(3, 6)`: nobody ever sees the 0.1.
#
# <details><summary>Nudge</summary>
#
# Walk through the losses with a `for`. You need to remember two things: the best epoch and its loss.
#
# </details>
# <details><summary>Outline</summary>
#
# Start with `best_loss = float("inf")`. If `loss < best_loss`, remember it. After that, if `epoch - best == patience`, break.
#
# </details>

# %%
def early_stopping(losses, patience):
    # BEGIN SOLUTION
    best, best_loss = 0, float("inf")
    for epoch, loss in enumerate(losses):
        if loss < best_loss:
            best, best_loss = epoch, loss
        if epoch - best == patience:
            break
    return best, epoch
    # END SOLUTION


check.early_stopping(early_stopping)

# %% [markdown]
# ## 5.6 AdamW · 12 min · ●●●
#
# Extend 5.4 to `adamw_step(params, gradients, state, rate, weight_decay)` for pytrees. It returns the pair of the **new parameters**
# and the new state; `state` is `(t, m, v)` with `m` and `v` trees like `params`. Weight decay is *decoupled* (Loshchilov and Hutter): it
# does not pass through `m` and `v`. With $\lambda$ = `weight_decay`,
#
# $$\theta \leftarrow \theta - \text{rate} \cdot \left( \frac{\hat m}{\sqrt{\hat v} + 10^{-8}} + \lambda\, \theta \right)$$
#
# Afterwards you have what trains most BERTs.
#
# <details><summary>Nudge</summary>
#
# `jax.tree.map` takes several trees: `jax.tree.map(f, params, m, v)`. Which $\theta$ is on the right, the old or the new one?
#
# </details>
# <details><summary>Outline</summary>
#
# Three `tree.map`: new `m`, new `v`, new parameters. The decay appears in the third one only, inside the bracket, so the
# learning rate multiplies it.
#
# </details>

# %%
def adamw_step(params, gradients, state, rate, weight_decay):
    # BEGIN SOLUTION
    t, m, v = state
    t = t + 1
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, gradients)
    v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, v, gradients)

    def new(p, m, v):
        step = m / (1 - 0.9**t) / (jnp.sqrt(v / (1 - 0.999**t)) + 1e-8)
        return p - rate * (step + weight_decay * p)

    return jax.tree.map(new, params, m, v), (t, m, v)
    # END SOLUTION


check.adamw_step(adamw_step)
